#!/bin/sh
# python_headers.sh FOLDER X.Y [ARCH]: puts the C headers of Debian's Python X.Y into FOLDER/usr/include, for a
# machine that has python3 without python3-dev, or for another architecture (arm64). It needs no privileges and
# installs nothing: apt resolves and downloads with a state of its own in FOLDER, from this machine's sources.
set -eu
folder=$1
package=libpython$2-dev
arch=${3:-$(dpkg --print-architecture)}
rm -rf "$folder"
mkdir -p "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial"
folder=$(cd "$folder" && pwd)
apt=$folder/apt
own_apt() {
    apt-get -qq -o APT::Architecture="$arch" -o APT::Architectures="$arch" -o APT::Sandbox::User="$(id -un)" \
        -o Acquire::Languages=none -o Dir::State="$apt" -o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt/cache" "$@"
}
own_apt update
cd "$apt"
own_apt download "$package"
dpkg-deb -x "$package"_*.deb "$folder"
rm -rf "$apt"
test -f "$folder/usr/include/python$2/Python.h"
