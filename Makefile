# make demo: set up and run the built-in model.   make test: set up and pass the tests.
# Both need python3 with venv, a C++ compiler and make; everything else comes as wheels into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := pip install -q --disable-pip-version-check
SOURCES := CMakeLists.txt pyproject.toml $(shell find cpp python cmake tests/cpp tests/cuda -type f -not -name '*.so' -not -path '*/__pycache__/*')
BUILD := build/native

.PHONY: help demo test lint peer bench clean
help:
	@sed -n 's/^# \(make .*\)/\1/p' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The package as a user gets it, with the C++ checks built beside it.
$(VENV)/installed: $(BIN)/python $(SOURCES)
	$(BIN)/$(PIP) '.[test]' --config-settings=build-dir=$(BUILD) --config-settings=cmake.define.LORA_EDGE_TESTS=ON
	@touch $@

demo: $(VENV)/installed
	@$(BIN)/python examples/demo.py

test: $(VENV)/installed
	$(BUILD)/check_kernels
	LORA_EDGE_STANDIN=$(CURDIR)/$(BUILD)/standin $(BIN)/python -m pytest
	LORA_EDGE_STANDIN=$(CURDIR)/$(BUILD)/standin $(BIN)/python -m pytest tests/cuda

# make lint: ruff, mypy --strict and clang-format.
lint: $(VENV)/installed
	$(BIN)/$(PIP) 'ruff>=0.6' 'mypy>=1.10' 'clang-format>=19,<20'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check python tests tools bench examples
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(find cpp tests/cpp tests/cuda -name '*.cpp' -o -name '*.h' -o -name '*.cu')

# make peer: the outside judges, llama.cpp and transformers + PEFT, in a venv of their own (llama.cpp is built: ~10 minutes).
PEER := .venv-peer
$(PEER)/installed: $(SOURCES)
	$(PYTHON) -m venv $(PEER)
	$(PEER)/bin/$(PIP) torch==2.13.0
	CMAKE_ARGS=-DLLAVA_BUILD=OFF $(PEER)/bin/$(PIP) llama-cpp-python # without what reads pictures
	$(PEER)/bin/$(PIP) '.[peer,test]'
	@touch $@

peer: $(PEER)/installed
	$(PEER)/bin/python -m pytest tests/peer
	$(PEER)/bin/python -m pytest bench --benchmark-disable-gc --rounds 1 --model tiny # that they run; figures want pytest bench
	$(PEER)/bin/python -m pytest bench/test_speed.py --benchmark-disable-gc --rounds 2 # the least speeds

# make bench: latency suites of lora_edge alone.
bench: $(VENV)/installed
	$(BIN)/$(PIP) '.[bench]'
	$(BIN)/python -m pytest bench

include tools/arm/arm.mk
include tools/cuda/cuda.mk
include tools/fuzz.mk
include tools/vnni.mk
include tools/wheels/wheels.mk

clean:
	rm -rf build dist $(VENV) $(PEER)
