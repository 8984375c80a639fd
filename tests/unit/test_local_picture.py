"""The live table as text: what stands in a terminal of some size."""

import re

import pytest
from rich.console import Console

from pyproxy.app.local import State
from pyproxy.cli.local_choices import Choices
from pyproxy.cli.local_picture import amount, picture
from pyproxy.cli.local_traffic import Meter, Traffic
from pyproxy.core.local_service import Claimant
from pyproxy.core.local_table import Row
from pyproxy.core.loopback import LocalPort
from pyproxy.metrics import Metrics
from pyproxy.model.service import ServicePortName

NEWS = ["warning: shop/web-1: port 80: another process listens there; it is at 127.1.2.3:8080 now"]


def row(number: int, context: str = "kind") -> Row:
    return Row(
        claimant=Claimant(context, "a-namespace", f"service-{number}"),
        kind="ClusterIP",
        address=f"127.{number % 250 + 1}.200.100",
        ports=(LocalPort("http", "TCP", 80, 8080), LocalPort("dns", "UDP", 53, 53)),
        endpoints=number % 3,
        note="" if number % 3 else "no ready endpoint",
    )


def state(count: int, *contexts: str) -> State:
    contexts = contexts or ("kind",)
    return State(
        rows=tuple(row(n, contexts[n % len(contexts)]) for n in range(count)),
        services=(),
        placements={},
        ways=dict.fromkeys(contexts, "portforward"),
        metrics={},
    )


def drawn(
    shown: State,
    width: int,
    height: int = 24,
    choices: Choices | None = None,
    meter: Meter | None = None,
) -> list[str]:
    console = Console(width=width, height=height, color_system=None)
    with console.capture() as captured:
        console.print(
            picture(shown, meter or Meter(), choices or Choices(), NEWS, width=width, height=height)
        )
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [32, 40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("contexts", [("kind",), ("kind", "prod")])
def test_500_services_fill_any_terminal_and_no_line_is_broken(
    width: int, contexts: tuple[str, ...]
) -> None:
    lines = drawn(state(500, *contexts), width)
    assert len(lines) == 24
    assert all(len(line) <= width for line in lines)
    starts = {line.index("a-nam") for line in lines[1:20]}
    assert len(starts) == 1


def test_a_wide_terminal_shows_all_columns_and_a_narrow_one_what_matters_most() -> None:
    wide = drawn(state(3, "kind", "prod"), 160)
    assert wide[0].split() == [
        *("CONTEXT", "SERVICE", "ADDRESS", "PORTS"),
        *("READY", "CONNS", "NEW/S", "BYTES/S", "ERRORS", "NOTE"),
    ]
    assert re.search(
        r"127\.1\.200\.100 +80->8080 53/UDP +0 +0 +0 +0 +0 +no ready endpoint", wide[1]
    )
    assert drawn(state(3), 50)[0].split() == ["SERVICE", "ADDRESS"]


def test_what_goes_through_stands_in_its_row() -> None:
    meter = Meter()
    claimant = row(0).claimant
    meter.totals = {claimant: Traffic(active=12, errors=3)}
    meter.rates = {claimant: Traffic(active=12, opened=0.5, size=1_234_000)}
    line = drawn(state(1), 120, meter=meter)[1]
    assert re.search(r" 0 +12 +0\.5 +1\.2M +3$", line.replace("no ready endpoint", "").rstrip())


def test_rows_that_do_not_fit_are_counted_and_scrolled_to() -> None:
    choices = Choices()
    assert "1-20 of 500" in drawn(state(500), 100, choices=choices)[-2]
    choices.press("\x1b[6~")
    assert "11-30 of 500" in drawn(state(500), 100, choices=choices)[-2]
    for key in "/service-49":
        choices.press(key)
    lines = drawn(state(500), 100, choices=choices)
    assert "1-11 of 11 (489 filtered out)" in lines[-2]
    assert lines[-1].startswith("/service-49_")


def test_nothing_is_said_to_be_there_when_nothing_is() -> None:
    assert drawn(state(0), 80)[-2].startswith("none   upstream: kind portforward")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.26, "0.3"), (7, "7"), (9.96, "10"), (999, "999"), (999.6, "1.0K"), (1500, "1.5K"),
     (12_345_678, "12M"), (2e9, "2G"), (3e12, "3T")],
)  # fmt: skip
def test_a_number_is_short(value: float, text: str) -> None:
    assert amount(value) == text


def test_a_meter_makes_rates_of_two_readings_over_all_ports() -> None:
    metrics = Metrics()
    shown = State(
        rows=(row(1), Row(claimant=Claimant("kind", "shop", "db", "db-0"), kind="Headless")),
        services=(),
        placements={},
        ways={"kind": "direct"},
        metrics={"kind": metrics},
    )
    meter = Meter()
    meter.read(shown, 100.0)
    for port in ("http", "dns"):
        counters = metrics.service_port(ServicePortName("a-namespace", "service-1", port, "TCP"))
        counters.opened, counters.active, counters.bytes_to_client = 4, 1, 100
        counters.closed["connect_failed"] = counters.closed["finished"] = 1
    # The projection gives a pod of a headless Service a Service of its own.
    metrics.service_port(ServicePortName("shop", "db.db-0", "", "TCP")).opened = 6
    meter.read(shown, 102.0)
    assert meter.totals[row(1).claimant] == Traffic(2, 8, 200, 2)
    assert meter.rates[row(1).claimant] == Traffic(2, 4, 100, 1)
    assert meter.rates[Claimant("kind", "shop", "db", "db-0")].opened == 3
