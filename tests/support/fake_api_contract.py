"""An API server to hold to the contract, fake or real: plain requests, in an own namespace."""

import json
import os
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import aiohttp
import pytest

from pyproxy.model.events import Resource
from pyproxy.source.credentials import CredentialSettings, load_credentials
from tests.support.fake_api import FakeApiServer, write_kubeconfig
from tests.support.fake_api_store import KINDS

Json = dict[str, Any]

# The parameters of a fixture that gives either.
FAKE_AND_CLUSTER = ["fake", pytest.param("cluster", marks=pytest.mark.cluster)]
NO_QUERY: Mapping[str, str] = MappingProxyType({})
_CLUSTER_VARIABLE = "PYPROXY_TEST_KUBECONFIG"


class ApiUnderTest:
    """Requests to one API server with the credentials of a kubeconfig."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace

    async def __aenter__(self) -> Self:
        self._credentials = await load_credentials(
            CredentialSettings(kubeconfig=str(self.kubeconfig))
        )
        self._session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def path(self, resource: Resource, name: str = "") -> str:
        kind = KINDS[resource]
        space = f"/namespaces/{self.namespace}" if kind.is_namespaced else ""
        return f"{kind.prefix}{space}/{resource}" + (f"/{name}" if name else "")

    async def ask(
        self, method: str, path: str, body: Json | None = None, query: Mapping[str, str] = NO_QUERY
    ) -> tuple[int, Json]:
        """Make a request; return the status and the JSON of the answer."""
        async with self._open(method, path, body, query) as response:
            return response.status, json.loads(await response.read())

    async def list(self, resource: Resource, query: Mapping[str, str] = NO_QUERY) -> Json:
        status, listed = await self.ask("GET", self.path(resource), query=query)
        assert status == 200, listed
        return listed

    async def create(self, resource: Resource, value: Json) -> Json:
        status, made = await self.ask("POST", self.path(resource), value)
        assert status == 201, made
        return made

    async def update(self, resource: Resource, value: Json) -> Json:
        path = self.path(resource, value["metadata"]["name"])
        status, made = await self.ask("PUT", path, value)
        assert status == 200, made
        return made

    async def delete(self, resource: Resource, name: str) -> None:
        status, answer = await self.ask("DELETE", self.path(resource, name))
        assert status == 200, answer

    @asynccontextmanager
    async def watch(self, resource: Resource, **query: str) -> AsyncIterator[AsyncIterator[Json]]:
        """Open a watch; yields an iterator of its events, which ends with the watch."""
        query = {"watch": "true", "timeoutSeconds": "30"} | query
        async with self._open("GET", self.path(resource), None, query) as response:
            assert response.status == 200, await response.text()
            yield _events(response)

    def _open(
        self, method: str, path: str, body: Json | None, query: Mapping[str, str]
    ) -> "aiohttp.client._RequestContextManager":
        credentials = self._credentials
        headers = {"Authorization": credentials.authorization} if credentials.authorization else {}
        return self._session.request(
            method,
            credentials.url + path,
            json=body,
            params=query,
            headers=headers,
            ssl=credentials.tls or True,
            server_hostname=credentials.server_name,
            proxy=credentials.proxy,
        )


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[Json]:
    while line := await response.content.readline():
        yield json.loads(line)


@asynccontextmanager
async def api_under_test(kind: str, directory: Path) -> AsyncIterator[ApiUnderTest]:
    """Start a fake, or take the real cluster that the environment names; skip without one."""
    if kind == "fake":
        async with FakeApiServer() as server:
            kubeconfig = write_kubeconfig(directory / "kubeconfig", server.url)
            async with ApiUnderTest(kubeconfig, "contract") as api:
                yield api
        return
    kubeconfig_name = os.environ.get(_CLUSTER_VARIABLE)
    if not kubeconfig_name:
        pytest.skip(f"{_CLUSTER_VARIABLE} names no kubeconfig of a cluster to test with")
    name = f"pyproxy-test-{uuid.uuid4().hex[:8]}"
    async with ApiUnderTest(Path(kubeconfig_name), name) as api:
        status, answer = await api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        assert status == 201, answer
        try:
            yield api
        finally:
            await api.ask("DELETE", f"/api/v1/namespaces/{name}")
