#!/bin/sh
# apt_install.sh WHO PACKAGE...: as root on Debian it installs the packages; otherwise it says that WHO needs them and names
# the command to run.
set -eu
who=$1
shift
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "$who needs packages that are not installed; on Debian run: sudo apt-get install $*" >&2
    exit 1
fi
echo "installing $*"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "$@" >/dev/null
