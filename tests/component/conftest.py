"""A cluster for `pyproxy local`: an API server, a Service with a pod, a kubeconfig."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.backends import echo, new_address, tcp_backend
from tests.support.fake_api import FakeApiServer, write_kubeconfig
from tests.support.local_commands import make_web


@pytest.fixture
async def api() -> AsyncIterator[FakeApiServer]:
    """Where nothing else is needed; many tests have one of their own."""
    async with FakeApiServer() as server:
        yield server


@pytest.fixture
async def web(api: FakeApiServer) -> AsyncIterator[tuple[str, int]]:
    """Service default/web with a pod that echoes."""
    async with tcp_backend(new_address(), echo) as pod:
        make_web(api, pod)
        yield pod


@pytest.fixture
def kubeconfig(api: FakeApiServer, tmp_path: Path) -> Path:
    return write_kubeconfig(tmp_path / "kubeconfig", api.url)
