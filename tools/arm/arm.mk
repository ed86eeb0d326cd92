# make arm: cross-builds the wheel for aarch64 Linux, runs the tests that need a kernel under emulation and counts the kernels' instructions.
# The kernel check and the Python tests run as each CPU below. An instruction that a CPU lacks is a SIGILL there, so the
# baseline is checked too. All of it lies in build/arm; a stamp per step makes a second run go straight to the tests.
# cortex-a53: Raspberry Pi 3 and Zero 2, plain Armv8.0. cortex-a76: Raspberry Pi 5, with dot products. The kernel check
# alone also runs as cortex-a72 (Raspberry Pi 4) and as max, which has int8 matrix products.
# With ARM_SHARED=1 the CPUs share the Python tests, each every second one: CI has no time for all of them on both.
ARM_CPUS := cortex-a53 cortex-a76
ARM_PART_cortex-a53 := 1/2
ARM_PART_cortex-a76 := 2/2
ARM_KERNEL_CPUS := cortex-a53 cortex-a72 cortex-a76 max

# Tests of Python that runs no kernels, or none of its own: the same on every machine, and slow under emulation.
ARM_LEFT_OUT := adapter_docs bench_cli chat convert convert_* cuda_* encoder_* export extract fit hub merge plan safetensors_file tasks tokenizer \
    torch_file train_* verify

ARM := build/arm
ARM_ROOT := $(ARM)/root
ARM_SITE := $(ARM_ROOT)/usr/lib/python3/dist-packages
ARM_PYTHON := tools/arm/python.sh
ARM_HOST := $(CURDIR)/$(ARM)/venv/bin
ARM_SOURCES := CMakeLists.txt pyproject.toml tools/arm/toolchain.cmake $(shell find cpp python cmake tests/cpp tests/cuda -type f \
    -not -path '*/__pycache__/*' -not -name '*.so')
# Prints lists of requirements of pyproject.toml, one to a line.
ARM_REQUIRES = /usr/bin/python3 -c 'import sys, tomllib; \
    t = tomllib.load(open("pyproject.toml", "rb")); p = t["project"]; lists = { \
    "build": t["build-system"]["requires"], "test": p["dependencies"] + p["optional-dependencies"]["test"]}; \
    print(*lists[sys.argv[1]], sep="\n")'

# make arm-kernels: the kernel check of make arm alone. One CPU keeps one core busy.
.PHONY: arm-kernels $(ARM_KERNEL_CPUS:%=arm-kernels-%)
arm-kernels: $(ARM)/wheel.stamp | arm-tools
	$(MAKE) -j2 --output-sync=target $(ARM_KERNEL_CPUS:%=arm-kernels-%)

$(ARM_KERNEL_CPUS:%=arm-kernels-%): arm-kernels-%: $(ARM)/wheel.stamp | arm-tools
	QEMU_CPU=$* qemu-aarch64-static -L $(ARM_ROOT) $(ARM)/cmake/check_kernels

# make arm-counts: counts the instructions of the ARM kernels into bench/arm_instructions.md, with llvm-mca's cycles.
# make arm-counts-check: fails where a kernel needs over 2 % more than recorded there.
.PHONY: arm-counts arm-counts-check
arm-counts: $(ARM)/wheel.stamp | arm-tools
	@sh tools/arm/install_tools.sh mca
	/usr/bin/python3 tools/arm/count.py $(ARM)/cmake

arm-counts-check: $(ARM)/wheel.stamp | arm-tools
	/usr/bin/python3 tools/arm/count.py --check $(ARM)/cmake

.PHONY: arm arm-tools $(ARM_CPUS:%=arm-%)
arm: arm-kernels arm-counts-check
	$(MAKE) -j2 --output-sync=target $(ARM_CPUS:%=arm-%)

$(ARM_CPUS:%=arm-%): arm-%: $(ARM)/wheel.stamp $(ARM)/site.stamp | arm-tools
	$(if $(ARM_SHARED),EMULATED_PART=$(ARM_PART_$*)) QEMU_CPU=$* PYTHONPATH=tools/arm sh $(ARM_PYTHON) -m pytest -p emulated -p no:cacheprovider -m 'not slow' \
	    $(ARM_LEFT_OUT:%=--ignore-glob='tests/python/test_%.py') tests/python

arm-tools:
	@mkdir -p $(ARM)
	@sh tools/arm/install_tools.sh

$(ARM)/root.stamp: tools/arm/make_root.sh | arm-tools
	sh tools/arm/make_root.sh $(ARM_ROOT)
	@touch $@

# What runs here: the build tools, for the same Python version as the root's.
$(ARM)/venv.stamp: pyproject.toml | arm-tools
	/usr/bin/python3 -m venv $(ARM)/venv
	$(ARM_REQUIRES) build >$(ARM)/build.txt
	$(ARM_HOST)/pip install -qq --disable-pip-version-check -r $(ARM)/build.txt cmake ninja
	@touch $@

# What runs there, from aarch64 wheels for up to the root's glibc.
$(ARM)/site.stamp: $(ARM)/root.stamp $(ARM)/venv.stamp pyproject.toml
	$(ARM_REQUIRES) test >$(ARM)/test.txt
	glibc=$$(sh $(ARM_PYTHON) -c 'import os; print(os.confstr("CS_GNU_LIBC_VERSION").split(".")[1])') && \
	$(ARM_HOST)/pip install -qq --disable-pip-version-check --upgrade --target $(ARM_SITE) --only-binary=:all: \
	    --platform manylinux2014_aarch64 $$(seq -f '--platform manylinux_2_%.0f_aarch64' 17 $$glibc) -r $(ARM)/test.txt
	@touch $@

$(ARM)/wheel.stamp: $(ARM)/root.stamp $(ARM)/venv.stamp $(ARM_SOURCES)
	rm -rf $(ARM)/dist
	PATH=$(ARM_HOST):$$PATH LORA_EDGE_ARM_ROOT=$(CURDIR)/$(ARM_ROOT) \
	CMAKE_TOOLCHAIN_FILE=$(CURDIR)/tools/arm/toolchain.cmake _PYTHON_HOST_PLATFORM=linux-aarch64 \
	SETUPTOOLS_EXT_SUFFIX=$$(sh $(ARM_PYTHON) -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))') \
	$(ARM_HOST)/pip wheel -qq --disable-pip-version-check --no-deps --no-build-isolation -w $(ARM)/dist \
	    --config-settings=build-dir=$(ARM)/cmake --config-settings=cmake.define.LORA_EDGE_TESTS=ON .
	rm -rf $(ARM_SITE)/lora_edge*
	/usr/bin/python3 -m zipfile -e $(ARM)/dist/*.whl $(ARM_SITE)
	@touch $@
