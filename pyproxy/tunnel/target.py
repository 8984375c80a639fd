"""What a tunnel leads to, and the error when it does not get there."""

from typing import NamedTuple

from pyproxy.errors import PyproxyError
from pyproxy.model.reasons import ConnectResult


class PodPort(NamedTuple):
    """A port of a pod."""

    namespace: str
    pod: str
    port: int

    def __str__(self) -> str:
        return f"pod {self.namespace}/{self.pod} port {self.port}"


class TunnelError(PyproxyError):
    """A tunnel cannot be opened, or was lost. result: the same in the words of a connect attempt.

    "error" and "timeout" are worth another try at the same pod; the others want another endpoint,
    or a person.
    """

    def __init__(self, result: ConnectResult, message: str) -> None:
        super().__init__(message)
        self.result = result


_ADVICE: dict[ConnectResult, str] = {
    "refused": "does the pod listen on that port?",
    "not_found": "the pod is gone",
    "timeout": "is the node up, and its kubelet reachable from the API server?",
    "unreachable": "is the API server reachable from here (VPN, proxy)?",
}


def tunnel_error(target: PodPort, result: ConnectResult, text: str) -> TunnelError:
    """Put what went wrong in one line: what was tried, what came of it, what to look at."""
    advice = _ADVICE.get(result)
    if result == "forbidden":
        advice = f"grant `get` and `create` on pods/portforward in namespace {target.namespace}"
    tail = f" ({advice})" if advice else ""
    return TunnelError(result, f"port-forward to {target}: {text}{tail}")
