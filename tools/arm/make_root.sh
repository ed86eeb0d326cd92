#!/bin/sh
# make_root.sh ROOT: an aarch64 Debian root that holds Python and the C++ runtime, from this machine's own apt sources.
# apt only resolves and downloads: dpkg here learns of no foreign architecture, and nothing in the root is run. It
# needs no privileges. The Python is the release's own, so it is of the same version as /usr/bin/python3 here.
set -eu
root=$1
apt=$1.apt
rm -rf "$root" "$apt"
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$root/usr/bin" "$root/usr/lib" "$root/usr/sbin"
apt=$(cd "$apt" && pwd)
: >"$apt/status"  # as if nothing were installed

arm_apt() {
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Install-Recommends=false \
        -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none -o Dir::State="$apt" \
        -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" -o Dir::Log="$apt" "$@"
}
arm_apt update
arm_apt install -y --download-only python3-minimal libpython3-stdlib libpython3-dev libstdc++6 >/dev/null

# A merged /usr, as the release has it; older packages still ship /lib, which then lands in usr/lib.
for d in bin lib sbin; do ln -s "usr/$d" "$root/$d"; done
for deb in "$apt"/cache/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --no-same-owner --keep-directory-symlink
done
# An absolute link would lead out of the root, to this machine's own files.
find "$root" -type l -lname '/*' | while read -r link; do
    ln -sfn "$(realpath -m -s --relative-to="$(dirname "$link")" "$root$(readlink "$link")")" "$link"
done
rm -rf "$apt"

# Read at every start of that Python; see python.sh.
mkdir -p "$root/usr/lib/python3/dist-packages"
echo 'import os, sys; sys.executable = os.environ.get("LORA_EDGE_ARM_PYTHON", sys.executable)' \
    >"$root/usr/lib/python3/dist-packages/executable.pth"
