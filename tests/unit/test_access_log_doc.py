"""docs/access-log.md tells of every mode and field, and its examples are what is written."""

import json
import re
from pathlib import Path
from typing import get_args

import msgspec
import yaml

from pyproxy.config import parse_config
from pyproxy.config.own import AccessLog
from pyproxy.core.access_line import AccessRecord, json_line, text_line
from pyproxy.core.access_log import told_reasons
from pyproxy.model.ended import MOST_FAILED, AccessMode
from pyproxy.model.reasons import CloseReason

DOCUMENT = (Path(__file__).parents[2] / "docs/access-log.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)


def rows(heading: str) -> dict[str, str]:
    """The second column of a table by its first."""
    table = DOCUMENT.partition(f"\n| {heading} |")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))


def test_every_mode_is_documented_and_errors_has_every_reason() -> None:
    modes = rows("mode")
    assert set(modes) == set(get_args(AccessMode))
    of_connections = told_reasons("errors") & set(get_args(CloseReason))
    for reason in of_connections - {"worker_lost"}:  # nobody is left to tell of that
        assert f"`{reason}`" in modes["errors"]


def test_every_field_is_documented_in_its_order() -> None:
    fields = [field.name for field in msgspec.structs.fields(AccessRecord)]
    assert list(rows("field")) == fields
    (example,) = blocks("json")
    assert list(json.loads(example)) == fields
    assert f"at most {MOST_FAILED} of them" in rows("field")["failed"]


def test_the_example_of_json_and_the_one_of_text_are_of_one_record() -> None:
    (example,) = blocks("json")
    record = msgspec.json.decode(example, type=AccessRecord)
    assert json.loads(json_line(record)) == json.loads(example)
    (lines,) = blocks("text")
    assert text_line(record).decode() == lines.splitlines(keepends=True)[0]


def test_the_example_of_a_configuration_can_be_read() -> None:
    (example,) = blocks("yaml")
    configuration, unused = parse_config(example)
    assert not unused
    keys = yaml.safe_load(example)["accessLog"]
    assert set(keys) == {field.encode_name for field in msgspec.structs.fields(AccessLog)}
    defaults = AccessLog()
    assert configuration.pyproxy.access_log.sample == defaults.sample
    assert configuration.pyproxy.access_log.records_per_second == defaults.records_per_second
