#!/bin/sh
# Makes sure that the compiler of the wheels, the emulator and Python's venv are there. As root on Debian it installs
# them; otherwise it names the command to run.
set -eu
missing=
need() {  # need COMMAND PACKAGE
    command -v "$1" >/dev/null || missing="$missing $2"
}
need clang++-19 clang-19
need ld.lld-19 lld-19
need llvm-ar-19 llvm-19
need ccache ccache
need qemu-aarch64-static qemu-user-static
need /usr/bin/python3 python3
/usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
[ -n "$missing" ] || exit 0
# shellcheck disable=SC2086  # a list of words
sh tools/apt_install.sh "make wheels" $missing
