"""Every async test runs on uvloop and on the standard loop, and those of forwarding on ours too."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from pyproxy.aio.direct_loop import DirectLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Name the loops; pytest-asyncio makes one test of each."""
    loops = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    if item.path.name.startswith("test_forward_"):
        loops["direct"] = DirectLoop
    return loops
