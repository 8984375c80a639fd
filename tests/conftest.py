"""Every async test runs on both event loops: uvloop, the default, and the standard one."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Name the loops; pytest-asyncio makes one test of each."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
