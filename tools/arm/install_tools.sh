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

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "make arm needs packages that are not installed; on Debian run: sudo apt-get install$missing" >&2
    exit 1
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086  # a list of words
apt-get install -y -qq --no-install-recommends $missing >/dev/null
