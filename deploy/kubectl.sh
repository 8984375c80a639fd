#!/bin/sh
# kubectl for the tests of the manifests, where there is none that knows kustomize 4 or later: that of
# Debian 13, which needs nothing of its release. Debian 12's is of 2020. As root on Debian.
set -eu
if kubectl version --client 2>/dev/null | grep -q "Kustomize Version: v[4-9]"; then
    exit 0
fi
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || [ ! -f "$keyring" ]; then
    echo "not installed: kubectl; what needs it is left out" >&2
    exit 0
fi
# From where this machine has its own packages.
# shellcheck disable=SC2016  # apt fills it in
mirror() { apt-get indextargets --format '$(REPO_URI)' "Identifier: Packages" "Label: Debian" | head -n 1; }
[ -n "$(mirror)" ] || apt-get update -qq
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
mkdir -p "$place/lists/partial" "$place/cache/archives/partial"
echo "deb [signed-by=$keyring] $(mirror) trixie main" >"$place/list"
cd "$place"
# Lists and cache of its own: this machine stays with its release.
for command in "update" "download kubectl"; do
    # shellcheck disable=SC2086  # two words
    apt-get -qq -o Dir::Etc::SourceList="$place/list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$place/lists" -o Dir::State::Status=/dev/null \
        -o Dir::Cache="$place/cache" -o APT::Sandbox::User=root $command
done
dpkg-deb --extract kubectl_*.deb files
install -m 755 files/usr/bin/kubectl /usr/local/bin/kubectl
