#!/bin/sh
# Prints the CPython interpreters of this machine that lora_edge is for, one per version: Debian's, those on PATH, and
# those of pyenv and uv.
set -eu
seen=
for python in /usr/bin/python3 $(for n in 10 11 12 13 14; do command -v "python3.$n" || true; done) \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3 \
    "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}"/cpython-3.*/bin/python3; do
    version=$("$python" -c 'import sys, sysconfig
assert sys.implementation.name == "cpython" and sys.version_info >= (3, 10)
assert not sysconfig.get_config_var("Py_GIL_DISABLED")
print(sys.version_info.minor)' 2>/dev/null) || continue
    case " $seen " in *" $version "*) continue ;; esac
    seen="$seen $version"
    echo "$python"
done
