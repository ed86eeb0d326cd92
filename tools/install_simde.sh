#!/bin/sh
# Makes sure that SIMDe is there. As root on Debian it installs it; otherwise it names the command to run.
set -eu
echo '#include <simde/x86/avx512/dpbusd.h>' | g++ -x c++ -fsyntax-only - 2>/dev/null && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "make vnni needs SIMDe; on Debian run: sudo apt-get install libsimde-dev" >&2
    exit 1
fi
echo "installing libsimde-dev"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends libsimde-dev >/dev/null
