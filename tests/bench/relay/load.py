"""Load on a target by wrk and iperf3: how much was done, in which time."""

import json
import re
import subprocess
from typing import NamedTuple

from tests.bench.relay.proxies import BULK, HTTP, find

_CONNECTIONS = 64


class Done(NamedTuple):
    """units: requests, connections, gigabytes."""

    units: float
    seconds: float


def wrk(address: str, duration_s: int, *, keep: bool) -> Done:
    """Requests on 64 connections; unless they are kept, each on one of its own."""
    command = [str(find("wrk")), "-t1", f"-c{_CONNECTIONS}", f"-d{duration_s}s"]
    command += [] if keep else ["-H", "Connection: close"]
    text = _output([*command, f"http://{address}:{HTTP}/"])
    found = re.search(r"(\d+) requests in ([\d.]+)s", text)
    if found is None or "Socket errors" in text or "Non-2xx" in text:
        raise RuntimeError(f"wrk on {address}: {text}")
    return Done(int(found[1]), float(found[2]))


def iperf3(address: str, duration_s: int) -> Done:
    """Bulk data, client to server, one connection."""
    command = [str(find("iperf3")), "-c", address, "-p", str(BULK), "-t", str(duration_s), "-J"]
    received = json.loads(_output(command))["end"]["sum_received"]
    return Done(received["bytes"] / 1e9, received["seconds"])


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
