"""Asking the running agent: HTTP over its Unix socket, by the standard library alone.

A command that asks must answer at once, and an HTTP library takes longer to import than the agent
takes to answer.
"""

import socket
from typing import Any

from pyproxy.errors import PyproxyError

_TIMEOUT_S = 30.0


class NoAgentError(PyproxyError):
    """No agent answers; the message says where it was asked, and what to do."""


class RefusedError(PyproxyError):
    """The agent answers that it cannot."""


def add_socket(command: Any) -> None:
    """Add the option that names the socket."""
    command.add_argument(
        "--control-socket", metavar="PATH", help="of the agent (/run/pyproxy/pyproxy.sock)"
    )


def ask(
    path: str | None, method: str, target: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the agent's answer. path: of its socket; None: wherever it is by default.

    Raises NoAgentError and RefusedError.
    """
    import gc
    import http.client
    import json

    gc.set_threshold(100_000)  # to look at 10,000 rows for garbage takes as long as to read them
    connection = http.client.HTTPConnection("pyproxy")
    connection.sock = _connected(path)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, target, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
    except TimeoutError:
        raise NoAgentError(f"the agent does not answer within {_TIMEOUT_S:g} s") from None
    except (OSError, http.client.HTTPException) as fault:
        raise NoAgentError(f"the agent went away while it answered: {fault}") from fault
    finally:
        connection.close()
    return _checked(response.status, text)


def _checked(status: int, text: bytes) -> dict[str, Any]:
    import json

    from pyproxy import __version__
    from pyproxy.ops.control_places import VERSION

    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or "version" not in answer:
        raise NoAgentError("what answers on the control socket is no pyproxy agent")
    if answer["version"] != VERSION:
        raise NoAgentError(
            f"the agent is pyproxy {answer.get('pyproxy', '?')} and answers in form"
            f" {answer['version']}; this is pyproxy {__version__} and reads form {VERSION}: use the"
            " agent's own command, such as in its container"
        )
    if status != 200:
        near = answer.get("near")
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise RefusedError(f"{answer.get('error', status)}{hint}")
    return answer


def _connected(path: str | None) -> socket.socket:
    from pyproxy.ops.control_places import places

    faults = []
    for place in places() if path is None else (path,):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(_TIMEOUT_S)
        try:
            sock.connect(place)
        except OSError as fault:
            sock.close()
            faults.append(f"{place}: {_why(fault)}")
        else:
            return sock
    raise NoAgentError(f"no agent answers at {'; nor at '.join(faults)}")


def _why(fault: OSError) -> str:
    if isinstance(fault, FileNotFoundError):
        return "there is no such socket; is pyproxy run running, perhaps with --control-socket?"
    if isinstance(fault, PermissionError):
        return "permission denied; ask as the user that the agent runs as, such as with sudo"
    if isinstance(fault, ConnectionRefusedError):
        return "nobody listens there any more"
    return fault.strerror or str(fault)
