"""What is measured, and what it should come to."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from tests.bench.relay import idle, latency, load, udp
from tests.bench.relay.proxies import MANY_SERVICES, Target
from tests.bench.relay.usage import cpu_s

DIRECT, PYPROXY, HAPROXY, NGINX = "direct", "pyproxy", "HAProxy", "nginx"
MANY = f"pyproxy, {MANY_SERVICES:,} Services"

Measured = dict[str, float]  # by the name of a metric


@dataclass(frozen=True)
class Row:
    """One line of the table.

    wanted: of the ratio to `other`, or, without one, of the figure itself. scale: from the metric
    to the unit of the title. is_added: the figure is what comes on top of direct's.
    """

    title: str
    metric: str
    wanted: tuple[Literal["<=", ">="], float] | None = None
    other: str | None = HAPROXY
    subject: str = PYPROXY
    scale: float = 1.0
    digits: int = 1
    is_added: bool = False


@dataclass(frozen=True)
class Scenario:
    """One kind of load. needs: programs without which it is left out."""

    name: str
    measure: Callable[[Target, int], Measured]
    rows: tuple[Row, ...]
    needs: tuple[str, ...] = ()
    targets: tuple[str, ...] = (DIRECT, PYPROXY, HAPROXY, NGINX)
    duration_s: int = 2
    rounds: int | None = None  # None: as many as asked for


def _loaded(run: Callable[[str, int], load.Done]) -> Callable[[Target, int], Measured]:
    """CPU for each unit, and units for each second."""

    def measure(target: Target, duration_s: int) -> Measured:
        before_s = cpu_s(target.pid) if target.pid else 0.0
        done = run(target.address, duration_s)
        used_s = cpu_s(target.pid) - before_s if target.pid else 0.0
        return {"cpu": used_s / done.units, "rate": done.units / done.seconds}

    return measure


def _latency(target: Target, duration_s: int) -> Measured:
    median, p99 = latency.answer_times_us(target.address, duration_s)
    return {"p50": median, "p99": p99}


_REQUEST_CPU = Row("kept connections: CPU per request, µs", "cpu", ("<=", 1.05), scale=1e6)
_CONNECTION_CPU = Row("short connections: CPU each, µs", "cpu", ("<=", 1.1), scale=1e6)


def _with_many(row: Row) -> Row:
    title = row.title.replace(":", f", {MANY_SERVICES:,} Services:")
    return replace(row, title=title, subject=MANY, other=PYPROXY, wanted=("<=", 1.05))


SCENARIOS = (
    Scenario(
        "requests",
        _loaded(lambda address, seconds: load.wrk(address, seconds, keep=True)),
        (
            _REQUEST_CPU,
            Row("kept connections: requests/s", "rate", digits=0),
            _with_many(_REQUEST_CPU),
        ),
        needs=("wrk", "nginx"),
        targets=(DIRECT, PYPROXY, HAPROXY, NGINX, MANY),
    ),
    Scenario(
        "connections",
        _loaded(lambda address, seconds: load.wrk(address, seconds, keep=False)),
        (
            _CONNECTION_CPU,
            Row("short connections: each second", "rate", (">=", 0.95), digits=0),
            _with_many(_CONNECTION_CPU),
        ),
        needs=("wrk", "nginx"),
        targets=(DIRECT, PYPROXY, HAPROXY, NGINX, MANY),
    ),
    Scenario(
        "bulk",
        _loaded(load.iperf3),
        (
            Row("bulk: CPU per GB, s", "cpu", ("<=", 0.5), digits=2),
            Row("bulk: Gbit/s", "rate", (">=", 1.2), scale=8),
        ),
        needs=("iperf3",),
    ),
    Scenario(
        "latency",
        _latency,
        (
            Row("added latency at 1,000/s: median, µs", "p50", ("<=", 1.0), is_added=True),
            Row("added latency at 1,000/s: p99, µs", "p99", ("<=", 1.0), is_added=True),
        ),
        needs=("nginx",),
    ),
    Scenario(
        "udp",
        _loaded(udp.exchange),
        (
            Row("UDP: CPU per datagram and answer, µs", "cpu", None, NGINX, scale=1e6),
            Row("UDP: datagrams/s, both ways", "rate", (">=", 1.0), NGINX, scale=2, digits=0),
        ),
        targets=(DIRECT, PYPROXY, NGINX),
    ),
    Scenario(
        "idle",
        idle.hold,
        (
            Row(f"{idle.CONNECTIONS:,} idle connections: KiB each", "memory", ("<=", 8.0), None),
            Row(
                f"{idle.CONNECTIONS:,} idle connections: % of a core",
                "cpu",
                ("<=", 1.0),
                None,
                digits=2,
            ),
        ),
        needs=("nginx",),
        targets=(PYPROXY, HAPROXY, NGINX),
        duration_s=5,
        rounds=1,
    ),
)
