"""One connect attempt: start it without waiting, and name how it ended."""

import errno
import os
from typing import TYPE_CHECKING

from pyproxy.forward.sockets import RawSocket, send_at_once, stream_socket

if TYPE_CHECKING:
    from pyproxy.model.endpoint import Endpoint
    from pyproxy.model.reasons import ConnectResult

_RESULTS: dict[int, "ConnectResult"] = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "refused",
    errno.ETIMEDOUT: "timeout",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.EACCES: "unreachable",  # a firewall's or a prohibit route's answer
    errno.ENOPROTOOPT: "unreachable",  # ICMP protocol unreachable
    errno.EPROTO: "unreachable",
}


def start_connect(endpoint: "Endpoint") -> RawSocket:
    """Return a socket that is connecting to the endpoint.

    Raises OSError when the kernel refuses at once: no descriptor, no route, no free port.
    """
    sock = stream_socket(endpoint.address)
    try:
        send_at_once(sock)
        code = sock.connect_ex((endpoint.address, endpoint.port))
    except OSError:
        sock.close()
        raise
    if code not in (0, errno.EINPROGRESS):
        sock.close()
        raise OSError(code, os.strerror(code))
    return sock


def result_of(code: int) -> "ConnectResult":
    """Name the result of an attempt by its errno; "error" is this host's own fault."""
    return _RESULTS.get(code, "error")
