# make avx512: the kernel check of the AVX-512 table with its intrinsics emulated, for machines without AVX-512.
# It says nothing of speed.
AVX512 := build/avx512

.PHONY: avx512
avx512: $(BIN)/python
	@sh tools/install_simde.sh
	$(BIN)/$(PIP) cmake ninja
	PATH=$(CURDIR)/$(BIN):$$PATH cmake -G Ninja -S . -B $(AVX512) -DLORA_EDGE_PYTHON=OFF -DLORA_EDGE_TESTS=ON -DLORA_EDGE_EMULATE_AVX512=ON
	PATH=$(CURDIR)/$(BIN):$$PATH cmake --build $(AVX512)
	LORA_EDGE_ISA=avx512_vnni $(AVX512)/check_kernels
