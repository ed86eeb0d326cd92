#!/bin/sh
# test_aarch64.sh [TEST...]: the aarch64 wheel for Debian's Python, installed beside the emulated machine's packages
# (make arm makes that machine). smoke.py runs on CPUs that choose each table, the kernels as the wheel's compiler
# built them are checked, and the given tests run as a Cortex-A76.
set -eu
cd "$(dirname "$0")/../.."
version=$(sh tools/arm/python.sh -c 'import sys; print("3.%d" % sys.version_info.minor)')
name=cp3${version#3.}
site=$PWD/build/wheels/site-$name-aarch64
rm -rf "$site"
/usr/bin/python3 -m venv --clear "$site.venv"
"$site.venv/bin/pip" install -qq --disable-pip-version-check --no-index --find-links dist --no-deps --target "$site" \
    --only-binary=:all: --platform manylinux_2_17_aarch64 --python-version "$version" --implementation cp \
    --abi "$name" lora_edge
rm -rf "$site.venv"
for cpu in cortex-a53 cortex-a76 max; do
    echo "as $cpu"
    QEMU_CPU=$cpu PYTHONPATH="$site" sh tools/arm/python.sh tools/wheels/smoke.py "$site" aarch64
    QEMU_CPU=$cpu qemu-aarch64-static -L build/arm/root "build/wheels/$name-aarch64/cmake/check_kernels" --cases 20
done
[ $# = 0 ] && exit
QEMU_CPU=cortex-a76 PYTHONPATH="$site:tools/arm" \
    sh tools/arm/python.sh -m pytest -p emulated -p no:cacheprovider "$@"
