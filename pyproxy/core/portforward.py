"""What both ways of port-forwarding share: the path, the subprotocols, and what errors mean.

Pods are reached through the API server: the kubelet connects to the port inside the pod. What goes
wrong there is told in words that are made by the kubelet, the container runtime and Go; they are
sorted here into results of a connect attempt. Sources: Kubernetes cri-streaming
portforward/websocket.go and httpstream.go, containerd sandbox_portforward_linux.go.
"""

from urllib.parse import quote

import msgspec

from pyproxy.model.reasons import ConnectResult

# One connection a websocket, a channel number before each message. Every server knows it.
V4_PROTOCOL = "v4.channel.k8s.io"
# SPDY/3.1 frames within the messages: many connections a websocket, and half-close. Servers from
# 1.30 on (apimachinery portforward/constants.go; feature gate PortForwardWebsockets).
TUNNEL_PROTOCOL = "SPDY/3.1+portforward.k8s.io"

# The first words that are found decide, so that what is certain stands before what is general.
_WORDS: tuple[tuple[str, ConnectResult], ...] = (
    ("connection refused", "refused"),
    ("connection reset", "refused"),
    ("broken pipe", "refused"),
    ("no route to host", "unreachable"),
    ("unreachable", "unreachable"),
    ("timed out", "timeout"),
    ("timeout", "timeout"),
    ("deadline exceeded", "timeout"),
    ("forbidden", "forbidden"),
    ("not found", "not_found"),
    ("no such", "not_found"),
    ("is closed", "not_found"),  # containerd: the network namespace for sandbox ... is closed
    ("not running", "not_found"),
)
_STATUSES: dict[int, ConnectResult] = {
    401: "forbidden",
    403: "forbidden",
    404: "not_found",
    504: "timeout",
}


class _ErrorAnswer(msgspec.Struct):
    """What newer kubelets write to the error stream (httpstream.go, portForwardErrResponse)."""

    message: str


_ERROR_ANSWER = msgspec.json.Decoder(_ErrorAnswer)


def portforward_path(namespace: str, pod: str) -> str:
    """Return the path of a pod's port-forward subresource."""
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(pod, safe='')}/portforward"


def error_text(data: bytes) -> str:
    """Return, in one line, what came on an error channel or stream: text, or JSON around it."""
    try:
        text = _ERROR_ANSWER.decode(data).message
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = data.decode(errors="replace")
    return " ".join(text.split())


def result_of_text(text: str) -> ConnectResult:
    """Sort the words of an error channel, stream or close frame; "error" is what nobody knows."""
    lowered = text.lower()
    return next((result for words, result in _WORDS if words in lowered), "error")


def result_of_status(status: int) -> ConnectResult:
    """Sort the HTTP status of a refused upgrade; 0 stands for no answer at all."""
    return _STATUSES.get(status, "error") if status else "unreachable"


def may_lack_protocol(status: int) -> bool:
    """Tell whether a refused upgrade may be about the subprotocol, so that another may do.

    A kubelet that does not know the subprotocol answers 403 without a body (golang.org/x/net
    websocket, newServerConn) or misses the ports (400); like kubectl, do not rely on which
    (kubectl, portforward.go: any failed upgrade falls back).
    """
    return 400 <= status < 500 and status not in (401, 404, 429)
