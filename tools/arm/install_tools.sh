#!/bin/sh
# install_tools.sh [mca]: makes sure that the cross-compiler, the emulators (the one that takes plugins, too), a C compiler
# for the plugin and Python's venv are there, and llvm-mca if asked for. As root on Debian it installs them; otherwise it
# names the command to run.
set -eu
missing=
need() {  # need COMMAND PACKAGE
    command -v "$1" >/dev/null || missing="$missing $2"
}
need aarch64-linux-gnu-g++ g++-aarch64-linux-gnu
need qemu-aarch64-static qemu-user-static
need qemu-aarch64 qemu-user
need cc gcc
need /usr/bin/python3 python3
/usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
[ "${1:-}" != mca ] || need llvm-mca-19 llvm-19
[ -n "$missing" ] || exit 0
# shellcheck disable=SC2086  # a list of words
sh tools/apt_install.sh "make arm" $missing
