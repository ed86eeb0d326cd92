#!/bin/sh
# debian_root.sh ROOT ARCH SUITE PACKAGE...: the packages with all that they depend on, unpacked into ROOT, for any
# architecture and release (amd64 or arm64; bookworm, bullseye, … or `-` for this machine's own). apt only resolves
# and downloads, with a state of its own: dpkg here learns of nothing, and nothing in the root is run. It needs no
# privileges.
set -eu
root=$1 arch=$2 suite=$3
shift 3
apt=$root.apt
rm -rf "$root" "$apt"
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$root/usr/bin" "$root/usr/lib" "$root/usr/sbin"
apt=$(cd "$apt" && pwd)
: >"$apt/status"  # as if nothing were installed

own_apt() {
    apt-get -qq -o APT::Architecture="$arch" -o APT::Architectures="$arch" -o APT::Install-Recommends=false \
        -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false \
        -o Dir::State="$apt" -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status" \
        -o Dir::Cache="$apt/cache" -o Dir::Log="$apt" "$@"
}
if [ "$suite" != - ]; then  # the same mirror's other release
    own_apt update
    mirror=${DEBIAN_MIRROR:-$(own_apt indextargets --format '$(COMPONENT) $(REPO_URI)' 'Origin: Debian' |
        awk '$1 == "main" && !/security/ { print $2; exit }')}
    [ -n "$mirror" ] || { echo "no mirror of Debian among apt's sources: set DEBIAN_MIRROR to one's URL" >&2; exit 1; }
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$apt/sources.list"
    rm -rf "$apt/lists" && mkdir -p "$apt/lists/partial"
    printf 'Dir::Etc::sourcelist "%s";\nDir::Etc::sourceparts "/dev/null";\n' "$apt/sources.list" >"$apt/apt.conf"
    export APT_CONFIG="$apt/apt.conf"
    own_apt update || { echo "$mirror has no $suite: set DEBIAN_MIRROR to a mirror or archive that has it" >&2; exit 1; }
else
    own_apt update
fi
own_apt install -y --download-only "$@" >/dev/null

# A merged /usr, as releases from bookworm on have it; older packages still ship /lib, which then lands in usr/lib.
for d in bin lib lib64 sbin; do mkdir -p "$root/usr/$d" && ln -s "usr/$d" "$root/$d"; done
for deb in "$apt"/cache/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --no-same-owner --keep-directory-symlink
done
# An absolute link would lead out of the root, to this machine's own files.
find "$root" -type l -lname '/*' | while read -r link; do
    ln -sfn "$(realpath -m -s --relative-to="$(dirname "$link")" "$root$(readlink "$link")")" "$link"
done
rm -rf "$apt"
