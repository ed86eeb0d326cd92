#!/bin/sh
# test.sh PYTHON [TESTS...]: installs dist/'s x86-64 wheel for that interpreter into a new environment, without a
# compiler and without the source tree, and runs smoke.py there; with arguments (folders or files of tests), these
# too, and the kernel check as the wheel's compiler built it.
set -eu
python=$1
shift
cd "$(dirname "$0")/../.."
name=$("$python" -c 'import sys; print("cp3%d" % sys.version_info.minor)')
venv=$PWD/build/wheels/test-$name
rm -rf "$venv"
"$python" -m venv "$venv"
pip="$venv/bin/pip install -qq --disable-pip-version-check --only-binary=:all:"
export CC=false CXX=false
$pip --no-index --find-links dist --no-deps lora_edge
$pip "lora_edge${1:+[test]}"  # what it needs
repository=$PWD
cd "$venv"
bin/python "$repository/tools/wheels/smoke.py"
[ $# = 0 ] && exit
"$repository/build/wheels/$name-x86_64/cmake/check_kernels"
bin/python -m pytest -c "$repository/pyproject.toml" --rootdir "$repository" -p no:cacheprovider \
    $(for path; do echo "$repository/$path"; done)
