"""The event loops to choose from."""

import asyncio
from collections.abc import Callable

from pyproxy.aio.direct_loop import DirectLoop


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes an event loop of the name: `uvloop` or `asyncio`."""
    if name == "asyncio":
        return asyncio.new_event_loop
    if name == "direct":
        return DirectLoop
    import uvloop

    return uvloop.new_event_loop


def running_loop_name() -> str:
    """Return the name of the loop that runs."""
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]
