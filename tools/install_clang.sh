#!/bin/sh
# Makes sure that clang (the command given) can build a fuzzer. As root on Debian it installs what is missing; otherwise it
# names the command to run.
set -eu
cxx=$1
probe=$(mktemp -d)
trap 'rm -rf "$probe"' EXIT
builds() {
    echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
        "$cxx" -x c++ -fsanitize=fuzzer,address - -o "$probe/fuzzer" 2>"$probe/errors"
}
if builds; then exit 0; fi

version=${cxx#clang++-}
if [ "$version" = "$cxx" ]; then
    echo "make fuzz: $cxx can't build a fuzzer; FUZZ_CXX names another clang" >&2
    cat "$probe/errors" >&2
    exit 1
fi
sh tools/apt_install.sh "make fuzz" "clang-$version" "libclang-rt-$version-dev"
builds || { cat "$probe/errors" >&2; exit 1; }
