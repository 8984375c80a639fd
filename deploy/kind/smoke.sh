#!/bin/sh
# Whether Services work on the cluster of kind-config.yaml: one line for each claim, and the exit
# status 0 when all of them hold. It takes kubectl, curl and python3, and leaves nothing behind.
# shellcheck disable=SC2317  # claim calls them
set -u
context=${CONTEXT:-kind-pyproxy}
here=$(dirname "$0")
namespace=pyproxy-smoke
failures=0

k() { kubectl --context "$context" "$@"; }
in_client() { k -n "$namespace" exec deploy/client -- "$@"; }
# ask URL [COUNT]: from a pod
ask() { in_client python3 /scripts/ask.py "$@"; }

# claim WORDS COMMAND...: PASS when the command succeeds, else FAIL and what it said
claim() {
    words=$1
    shift
    if output=$("$@" 2>&1); then
        echo "PASS  $words"
    else
        echo "FAIL  $words"
        echo "$output" | sed 's/^/      /'
        failures=$((failures + 1))
    fi
}

two_names() { [ "$(ask "$1" 40 | sort -u | wc -l)" -eq 2 ]; }
cluster_ip() { k -n "$namespace" get service web -o "jsonpath={.spec.clusterIPs[$1]}"; }
host_of() { case $1 in *:*) echo "[$1]" ;; *) echo "$1" ;; esac; }
answers_udp() {
    python3 -c 'import socket
s = socket.socket(type=socket.SOCK_DGRAM)
s.settimeout(5)
s.sendto(b"who?", ("127.0.0.1", 30053))
assert s.recv(200).startswith(b"web-")'
}
every_agent_serves() {
    pods=$(k -n kube-system get pods -l app.kubernetes.io/name=pyproxy -o name) || return 1
    [ -n "$pods" ] || return 1
    for pod in $pods; do
        k -n kube-system exec "$pod" -- pyproxy status --serving || return 1
    done
}
explained() { k -n kube-system exec ds/pyproxy -- pyproxy explain "$namespace/web:http"; }
refused_without_endpoints() {
    k -n "$namespace" scale deploy/web --replicas=0 &&
        k -n "$namespace" wait --for=delete pod -l app=web --timeout=90s &&
        ask "http://web.$namespace/" | grep -q "refused"
}
back_again() {
    k -n "$namespace" scale deploy/web --replicas=2 &&
        k -n "$namespace" rollout status deploy/web --timeout=90s &&
        ask "http://web.$namespace/"
}
# Asked in a row while each node's agent is replaced by another.
restart_loses_nothing() {
    answers=$(mktemp)
    ask "http://web.$namespace/" 100000 >"$answers" 2>&1 &
    asking=$!
    k -n kube-system rollout restart ds/pyproxy &&
        k -n kube-system rollout status ds/pyproxy --timeout=300s
    restarted=$?
    kill "$asking" 2>/dev/null
    wait "$asking" 2>/dev/null
    in_client python3 -c 'import os, signal
for pid in filter(str.isdecimal, os.listdir("/proc")):
    try:
        if b"ask.py" in open(f"/proc/{pid}/cmdline", "rb").read():
            os.kill(int(pid), signal.SIGTERM)
    except OSError:
        pass'
    lost=$(grep -c '^failed' "$answers")
    echo "$(grep -c '^web-' "$answers") answers, $lost failed"
    grep '^failed' "$answers" | sort | uniq -c
    rm -f "$answers"
    [ "$restarted" -eq 0 ] && [ "$lost" -eq 0 ]
}

trap 'k delete -f "$here/smoke.yaml" --wait=false >/dev/null 2>&1' EXIT
k apply -f "$here/smoke.yaml" >/dev/null || exit 1
claim "an agent serves on every node" every_agent_serves
claim "the cluster's DNS is there" k -n kube-system rollout status deploy/coredns --timeout=180s
k -n "$namespace" rollout status deploy/web --timeout=180s >/dev/null
k -n "$namespace" rollout status deploy/client --timeout=180s >/dev/null
claim "a pod reaches a Service by its name (DNS over UDP, then TCP)" ask "http://web.$namespace/"
for family in 0 1; do
    address=$(cluster_ip "$family")
    claim "a pod reaches the ClusterIP $address" ask "http://$(host_of "$address")/"
done
claim "both endpoints get connections" two_names "http://web.$namespace/"
for address in $(k get nodes -o 'jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}'); do
    case $address in *:*) continue ;; esac # Service node is of the cluster's first family
    claim "a pod reaches the node port of $address" ask "http://$address:30080/"
done
claim "this machine reaches the node port (TCP)" curl -fsS --noproxy '*' -m 5 http://127.0.0.1:30080/
claim "this machine reaches the node port (UDP)" answers_udp
claim "explain tells that it is forwarded" explained
claim "without endpoints it is refused" refused_without_endpoints
claim "with endpoints it is back" back_again
claim "a rolling restart of the agents loses no request" restart_loses_nothing
[ "$failures" -eq 0 ] && echo "all claims hold" || echo "$failures claims do not hold"
exit "$((failures > 0))"
