# make cuda: makes the CUDA kernels' PTX again, which must be what is committed, and assembles it for all GPUs with the
# assemblers of three releases of CUDA; no GPU is needed. make cuda-ptx: makes it for the commit, and the table of registers.
# make gpu: on a machine with a GPU, tests there, under compute-sanitizer where that is installed, and times models into bench/LOG.md.
CUDA := build/cuda
# 11.8 is the last for the oldest GPUs' neighbours, 12.6 JetPack 6's, 13.0 the first for Thor and without what came before Turing.
CUDA_RELEASES := nvidia-cuda-nvcc-cu11==11.8.89 nvidia-cuda-nvcc-cu12==12.6.85 nvidia-cuda-nvcc==13.0.88
CUDA_PTXAS = $$(find $(CUDA)/nvcc* -name ptxas -type f)

.PHONY: cuda cuda-ptx
cuda: $(CUDA)/installed.stamp
	@sh tools/install_clang.sh clang++-19
	rm -rf $(CUDA)/ptx && sh tools/cuda/make_ptx.sh $(CUDA)/ptx
	if cmp -s cpp/backend/cuda/ptx/clang.txt $(CUDA)/ptx/clang.txt; then diff -r cpp/backend/cuda/ptx $(CUDA)/ptx; \
	else echo "not compared: the PTX was made by $$(cat cpp/backend/cuda/ptx/clang.txt)"; fi
	/usr/bin/python3 tools/cuda/ptxas_table.py --check $(CUDA_PTXAS)

cuda-ptx: $(CUDA)/installed.stamp
	sh tools/cuda/make_ptx.sh
	/usr/bin/python3 tools/cuda/ptxas_table.py $(CUDA_PTXAS)

$(CUDA)/installed.stamp: tools/cuda/cuda.mk
	rm -rf $(CUDA) && mkdir -p $(CUDA)
	$(PYTHON) -m venv $(CUDA)/venv
	for release in $(CUDA_RELEASES); do \
	    $(CUDA)/venv/bin/$(PIP) --no-deps --target $(CUDA)/nvcc-$$release $$release || exit 1; done
	@touch $@

.PHONY: gpu
gpu: $(VENV)/installed
	$(BIN)/lora-edge info --devices
	LORA_EDGE_GPU=1 $(BIN)/python -m pytest tests/cuda
	if command -v compute-sanitizer; then for tool in memcheck racecheck; do \
	    LORA_EDGE_GPU=1 compute-sanitizer --tool $$tool --error-exitcode 1 $(BIN)/python -m pytest tests/cuda -k "built_in or differ" || exit 1; \
	    done; else echo "not checked: there is no compute-sanitizer"; fi
	$(BIN)/python tools/cuda/on_gpu.py $(GPU_MODELS)
