# make fuzz: libFuzzer with ASan and UBSan on the GGUF reader, the model and its kernels.
# It runs for FUZZ_SECONDS from the seeds in tests/fixtures/gguf_corpus. What it finds goes on in build/fuzz/corpus;
# an input that crashes, takes over 2 s or allocates over 80 MB in one piece is left in build/fuzz and fails the
# target. FUZZ_ISA=ref takes the reference kernels.
FUZZ_SECONDS ?= 600
FUZZ_ISA ?=
FUZZ_CXX ?= clang++-19
FUZZ := build/fuzz
FUZZ_SEEDS := tests/fixtures/gguf_corpus

.PHONY: fuzz
fuzz: $(BIN)/python
	@sh tools/install_clang.sh $(FUZZ_CXX)
	$(BIN)/$(PIP) cmake ninja
	PATH=$(CURDIR)/$(BIN):$$PATH cmake -G Ninja -S . -B $(FUZZ) -DCMAKE_CXX_COMPILER=$(FUZZ_CXX) \
	    -DCMAKE_CXX_FLAGS_RELEASE='-O1 -DNDEBUG' -DLORA_EDGE_PYTHON=OFF -DLORA_EDGE_FUZZ=ON
	PATH=$(CURDIR)/$(BIN):$$PATH cmake --build $(FUZZ)
	mkdir -p $(FUZZ)/corpus
	LORA_EDGE_ISA=$(FUZZ_ISA) $(FUZZ)/fuzz_gguf -max_total_time=$(FUZZ_SECONDS) -timeout=2 -max_len=16384 \
	    -malloc_limit_mb=80 -rss_limit_mb=1024 -use_value_profile=1 -print_final_stats=1 -verbosity=0 \
	    -artifact_prefix=$(FUZZ)/ $(FUZZ)/corpus $(FUZZ_SEEDS)
