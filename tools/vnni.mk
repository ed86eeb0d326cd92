# make vnni: the kernel check of the AVX-VNNI and AVX-512 VNNI tables with their intrinsics emulated, for machines without.
# It says nothing of speed.
VNNI := build/vnni

.PHONY: vnni
vnni: $(BIN)/python
	@sh tools/install_simde.sh
	$(BIN)/$(PIP) cmake ninja
	PATH=$(CURDIR)/$(BIN):$$PATH cmake -G Ninja -S . -B $(VNNI) -DLORA_EDGE_PYTHON=OFF -DLORA_EDGE_TESTS=ON -DLORA_EDGE_EMULATE_VNNI=ON
	PATH=$(CURDIR)/$(BIN):$$PATH cmake --build $(VNNI)
	LORA_EDGE_ISA=avx_vnni $(VNNI)/check_kernels
	LORA_EDGE_ISA=avx512_vnni $(VNNI)/check_kernels
