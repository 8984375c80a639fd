"""Whether the agent that answers on the control socket is of this container.

While a node's agent is replaced, two pods share the directory of the socket, and the older one
answers until the newer one has taken over. A process of another PID namespace has no number in
this one: then the kernel says 0 (pid_namespaces(7), SO_PEERCRED in unix(7)).
"""

import socket
import struct

from pyproxy.cli.control_client import NoAgentError

_PEER = struct.Struct("3i")  # pid, uid and gid: struct ucred


def check(path: str | None) -> None:
    """Raise NoAgentError when it is another container's. path: as control_client.ask has it."""
    from pyproxy.ops.control_places import places

    for place in places() if path is None else (path,):
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(place)
            except OSError:
                continue
            pid, *_ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if pid:
                return
            raise NoAgentError(
                f"the agent at {place} is of another container: that of this one does not serve yet"
            )
    raise NoAgentError("no agent answers any more")
