#!/bin/sh
# The system packages that the tests (or, with the argument `bench`, the benchmarks) use beside
# Python: installed when root on Debian, else named.
#
# Some come with a service, which would listen (Prometheus on 9090, nginx on 80) from now on and after
# each boot. The tests start processes of their own, on free ports. So no service is started while
# these are installed, and theirs are disabled; `systemctl enable --now prometheus` has it back. A
# package that is there already, and its service, are left as they are.
set -eu
case "${1:-tests}" in
tests) wanted="curl:curl ip:iproute2 nft:nftables prometheus:prometheus chromium:chromium chromedriver:chromium-driver" ;;
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
    policy=/usr/sbin/policy-rc.d # what Debian's packages ask before they start anything
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        trap 'exit 1' HUP INT TERM
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    # shellcheck disable=SC2086  # a list of words
    apt-get install -qq -y --no-install-recommends $missing >/dev/null
    for service in $missing; do
        [ ! -e "/etc/init.d/$service" ] || update-rc.d "$service" disable >/dev/null
    done
else
    echo "not installed:$missing; what needs them is left out" >&2
fi
