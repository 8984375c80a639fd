#!/bin/sh
# The system packages that the tests (or, with the argument `bench`, the benchmarks) use beside
# Python: installed when root on Debian, else named.
set -eu
case "${1:-tests}" in
tests) wanted="curl:curl ip:iproute2 nft:nftables" ;;
bench) wanted="haproxy:haproxy nginx:nginx nginx:libnginx-mod-stream wrk:wrk iperf3:iperf3" ;;
*) echo "usage: $0 [tests|bench]" >&2; exit 2 ;;
esac
PATH="$PATH:/usr/sbin:/sbin"
missing=
for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of words
    apt-get install -qq -y --no-install-recommends $missing >/dev/null
else
    echo "not installed:$missing; what needs them is left out" >&2
fi
