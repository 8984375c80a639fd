"""A real Prometheus for tests: in a directory of its own, on a free port of loopback."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

# Of whole start-up and scrapes: much more than they take.
_DEADLINE_S = 60.0
_POLL_S = 0.1
SCRAPE_INTERVAL = "500ms"


class Prometheus:
    """One that scrapes the targets of one job."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def query(self, query: str) -> list[tuple[dict[str, str], float]]:
        """The labels and the value of each series that answers an instant query."""
        async with self._session.get(
            f"{self._url}/api/v1/query", params={"query": query}
        ) as response:
            response.raise_for_status()
            answer: dict[str, Any] = await response.json()
        assert answer["status"] == "success", answer
        return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    async def answer(self, query: str) -> list[tuple[dict[str, str], float]]:
        """The same, as soon as there is any series."""
        async with asyncio.timeout(_DEADLINE_S):
            while not (found := await self._tried(query)):
                await asyncio.sleep(_POLL_S)
        return found

    async def until(self, query: str) -> float:
        """Wait until the one series of a query has a value that is not zero; return it."""
        value = 0.0
        async with asyncio.timeout(_DEADLINE_S):
            while not value > 0:  # nor is that true of NaN
                ((_, value),) = await self.answer(query)
                await asyncio.sleep(_POLL_S)
        return value

    async def _tried(self, query: str) -> list[tuple[dict[str, str], float]]:
        try:
            return await self.query(query)
        except aiohttp.ClientConnectorError:  # it is starting
            return []
        except aiohttp.ClientResponseError as refused:
            if refused.status != 503:  # so it is, and listens already
                raise
            return []


def binary(name: str) -> str:
    """The path of prometheus or promtool; skips the test where it cannot be had."""
    path = shutil.which(name)
    if path is None:
        if os.geteuid() == 0:
            pytest.fail(f"no {name}: `make test` installs it (deploy/system-packages.sh)")
        pytest.skip(f"no {name}: install Debian's package prometheus")
    return path


@contextlib.asynccontextmanager
async def scraping(directory: Path, port: int, job: str, *urls: str) -> AsyncIterator[Prometheus]:
    """A Prometheus on that port that scrapes the metrics ports at these URLs; killed at the end."""
    configuration = {
        "global": {"scrape_interval": SCRAPE_INTERVAL, "scrape_timeout": SCRAPE_INTERVAL},
        "scrape_configs": [
            {
                "job_name": job,
                "static_configs": [{"targets": [url.removeprefix("http://") for url in urls]}],
            }
        ],
    }
    path = directory / "prometheus.yaml"
    path.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        binary("prometheus"),
        f"--config.file={path}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    )
    try:
        async with aiohttp.ClientSession() as session:
            yield Prometheus(f"http://127.0.0.1:{port}", session)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def lint(text: bytes) -> list[str]:
    """What `promtool check metrics` says of a scrape: nothing is best."""
    process = await asyncio.create_subprocess_exec(
        binary("promtool"),
        "check",
        "metrics",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate(text)
    lines = said.decode().splitlines()
    assert bool(lines) == bool(process.returncode), lines
    return lines
