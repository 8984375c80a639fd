"""docs/balancing.md tells of every annotation, and of every word for how a connection went."""

import re
from pathlib import Path
from typing import get_args

from pyproxy.core.options import ANNOTATIONS, written
from pyproxy.model.options import DEFAULT_OPTIONS, Balance, EjectionSettings, OnEndpointRemoved
from pyproxy.model.reasons import CloseReason, ConnectResult, DatagramDrop, FlowEnd

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/balancing.md").read_text(encoding="utf-8")


def first_words(heading: str) -> list[str]:
    """The first column of the table whose head begins with a word."""
    _, _, rest = DOCUMENT.partition(f"\n{heading}")
    table = rest.partition("\n\n")[0]
    return re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)


def test_every_annotation_is_documented_with_its_words() -> None:
    assert set(first_words("| annotation |")) == set(ANNOTATIONS)
    for word in (*get_args(Balance), *get_args(OnEndpointRemoved), "on", "off", "v2"):
        assert f"`{word}`" in DOCUMENT


def test_the_defaults_that_are_documented_are_the_defaults() -> None:
    assert written(DEFAULT_OPTIONS) == []
    cells = [row.split(" | ") for row in DOCUMENT.splitlines() if row.startswith("| `pyproxy.io/")]
    rows = {row[0]: row[2] for row in cells}
    for name, annotation in ANNOTATIONS.items():
        value = getattr(DEFAULT_OPTIONS, annotation.option)
        if value is not None:
            assert rows[f"| `{name}`"] == f"`{annotation.write(value)}`"
        elif annotation.option != "connect_timeout_s":  # that of the forwarder
            assert rows[f"| `{name}`"] == "none"
    assert EjectionSettings() == EjectionSettings(
        consecutive_failures=3, base_time_s=10, max_time_s=300, max_percent=50
    )


def test_every_reason_for_which_a_connection_ends_is_documented() -> None:
    assert first_words("| reason | HAProxy") == list(get_args(CloseReason))


def test_every_reason_for_which_a_flow_ends_is_documented() -> None:
    assert first_words("| reason | what") == list(get_args(FlowEnd))


def test_every_reason_for_which_a_datagram_is_dropped_is_documented() -> None:
    assert first_words("| reason of a drop |") == list(get_args(DatagramDrop))


def test_every_result_of_an_attempt_is_documented() -> None:
    assert first_words("| result |") == list(get_args(ConnectResult))


def test_every_annotation_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ANNOTATIONS:
        assert f"`{name}`" in readme or f"`{name.partition('/')[2]}`" in readme
