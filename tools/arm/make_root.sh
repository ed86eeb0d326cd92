#!/bin/sh
# make_root.sh ROOT: an aarch64 Debian root that holds Python and the C++ runtime, from this machine's own apt sources.
# The Python is the release's own, so it is of the same version as /usr/bin/python3 here.
set -eu
root=$1
here=$(cd "$(dirname "$0")" && pwd)
sh "$here/../debian_root.sh" "$root" arm64 - python3-minimal libpython3-stdlib libpython3-dev libstdc++6

# Read at every start of that Python; see python.sh.
mkdir -p "$root/usr/lib/python3/dist-packages"
echo 'import os, sys; sys.executable = os.environ.get("LORA_EDGE_ARM_PYTHON", sys.executable)' \
    >"$root/usr/lib/python3/dist-packages/executable.pth"
