"""Where the control socket is. Apart from its server, as commands need this and no HTTP library."""

import os
from collections.abc import Mapping

PLACE = "/run/pyproxy/pyproxy.sock"
# Of the answers' form: it grows when a field is removed, or means something else.
VERSION = 1


def places(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Where it is when nobody says, the best place first: who is not root may have the second."""
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    return (PLACE, os.path.join(runtime, "pyproxy.sock")) if runtime else (PLACE,)
