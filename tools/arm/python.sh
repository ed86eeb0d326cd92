#!/bin/sh
# The emulated machine's Python, as the CPU that QEMU_CPU names. That Python's sys.executable is this script, so that a
# test which starts another Python starts the emulator again: the kernel here can't run aarch64 programs itself.
here=$(cd "$(dirname "$0")" && pwd)
arm=$(cd "$here/../../build/arm" && pwd)
export LORA_EDGE_ARM_PYTHON="$here/python.sh" PYTHONPYCACHEPREFIX="$arm/pycache"
exec qemu-aarch64-static -L "$arm/root" "$arm/root/usr/bin/python3" "$@"
