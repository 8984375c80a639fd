#!/bin/sh
# The system packages that the tests use beside Python: installed when root on Debian, else named.
set -eu
missing=
for pair in curl:curl ip:iproute2 nft:nftables; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of words
    apt-get install -qq -y --no-install-recommends $missing >/dev/null
else
    echo "not installed:$missing; the tests that need them are skipped" >&2
fi
