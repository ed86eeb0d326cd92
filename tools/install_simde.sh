#!/bin/sh
# Makes sure that SIMDe is there. As root on Debian it installs it; otherwise it names the command to run.
set -eu
echo '#include <simde/x86/avx512/dpbusd.h>' | g++ -x c++ -fsyntax-only - 2>/dev/null && exit 0
sh tools/apt_install.sh "make vnni" libsimde-dev
