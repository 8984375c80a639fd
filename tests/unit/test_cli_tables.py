"""What lists show: columns, numbers as people read them, states, and rates between readings."""

import io
import re
from typing import Any

import pytest

from pyproxy.cli.lists import CONNECTIONS, ENDPOINTS, SERVICES, Listing
from pyproxy.cli.paint import Cell, Paint, duration, lines, size
from pyproxy.cli.top import Rates

PLAIN = Paint(io.StringIO())


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (3 << 30, "3.0 GiB"),
        (5 << 40, "5.0 TiB"),
    ],
)
def test_sizes(count: float | None, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.04, "0.0s"),
        (9.99, "10.0s"),
        (59.9, "59s"),
        (61, "1m1s"),
        (7260, "2h1m"),
        (90000, "1d1h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_columns_are_aligned_and_numbers_stand_to_the_right() -> None:
    rows = [["a", "1"], [Cell("long", "bad"), "1000"]]
    assert lines(("NAME", "N"), rows, PLAIN) == ["NAME     N", "a        1", "long  1000"]
    assert lines(("NAME", "N"), [], PLAIN) == ["NAME  N"]


def service(**changes: Any) -> dict[str, Any]:
    return {
        "namespace": "default",
        "name": "web",
        "port": "",
        "protocol": "TCP",
        "type": "ClusterIP",
        "not_proxied": None,
        "frontends": [],
        "endpoints": {"total": 2, "usable": 0},
        "connections": {"active": 1, "opened": 10, "closed": {}},
        "connect_attempts": {"ok": 10, "refused": 3},
        "bytes_to_endpoint": 100,
        "bytes_to_client": 2048,
        "ejections": 0,
        **changes,
    }


def cells(listing: Listing, row: dict[str, Any]) -> dict[str, str]:
    return {column.name: column.cell(row) for column in listing.columns}


def test_a_service_without_usable_endpoints_stands_out() -> None:
    found = cells(SERVICES, service())
    assert (found["ENDPOINTS"], found["FAILED"], found["PORT"]) == ("0/2", "3", "-/TCP")
    assert getattr(found["ENDPOINTS"], "kind", "") == "bad"


def test_a_service_that_is_left_alone_says_why() -> None:
    found = cells(SERVICES, service(not_proxied="Headless"))
    assert found["ADDRESS"] == "Headless"
    assert getattr(found["ENDPOINTS"], "kind", "") == ""


def test_further_addresses_are_counted_and_faults_are_told() -> None:
    at = {"address": "10.0.0.1", "port": 80, "kind": "ClusterIP", "fault": None}
    found = cells(SERVICES, service(frontends=[at, {**at, "fault": "taken"}]))
    assert found["ADDRESS"] == "10.0.0.1:80 +1"
    assert found["ADDRESSES"] == "ClusterIP=10.0.0.1:80,ClusterIP=10.0.0.1:80 (taken)"


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"ready": True, "serving": True}, "ready"),
        ({"ready": True, "serving": True, "ejected_by": 1, "ejected_seconds": 30}, "ejected 30s"),
        ({"serving": True, "terminating": True}, "terminating"),
        ({"terminating": True}, "terminated"),
        ({}, "not ready"),
    ],
)
def test_the_state_of_an_endpoint(changes: dict[str, Any], state: str) -> None:
    nothing = {"ready": False, "serving": False, "terminating": False, "ejected_by": 0}
    (column,) = (column for column in ENDPOINTS.columns if column.name == "STATE")
    assert column.cell({**nothing, **changes}) == state


def test_a_connection_without_an_endpoint_waits() -> None:
    row = {
        "endpoint": None,
        "connected": False,
        "age_seconds": 0.1,
        "idle_seconds": None,
        "client": "10.0.0.9:4000",
        "frontend": "10.0.0.1:80",
        "pod": "",
    }
    found = cells(CONNECTIONS, {**service(), **row})
    assert (found["ENDPOINT"], found["STATE"], found["IDLE"]) == ("-", "waiting", "-")


def test_rates_are_of_the_time_between_two_readings() -> None:
    rates = Rates()
    rates.read([service()], 10.0)
    later = {"active": 7, "opened": 30, "closed": {}}
    busy = service(connections=later, bytes_to_client=4096)
    rates.read([busy, service(name="new"), service(name="none", not_proxied="Headless")], 12.0)
    _, first, second = (line.split() for line in rates.table(10))
    assert first[:5] == ["default/web", "-/TCP", "10.0", "7", "0.0"]
    assert first[7:9] == ["1.0", "KiB"]
    assert second[0] == "default/new"
    assert second[2] == "0.0"
    assert len(rates.table(2)) == 2


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_table_reads_the_same_with_colours_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    head = ("NAME", "COUNT", "NOTE")
    rows = [
        ("a", "10", Cell("bad", "bad")),
        ("longer", Cell("-", "dim"), ""),
        ("b", "9", "x {} %s"),
    ]
    painted = lines(head, rows, Paint(_Terminal()))
    plain = lines(head, rows, PLAIN)
    assert painted != plain
    assert [re.sub(r"\x1b\[\d+m", "", line).rstrip() for line in painted] == plain
