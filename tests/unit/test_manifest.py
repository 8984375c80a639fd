"""YAML to objects: what is good counts, what is bad is told with its line."""

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.core.manifest import Manifest, parse_manifest
from pyproxy.errors import ConfigError
from pyproxy.model.service import Service
from tests.support.builders import (
    Json,
    decoded,
    make_node,
    make_service,
    make_service_cidr,
    make_slice,
    resource_of,
)

OBJECTS = [make_service(), make_slice("10.180.0.1"), make_node(), make_service_cidr("::/64")]
VALUES = tuple((resource_of(data), decoded(data)) for data in OBJECTS)


def test_several_documents_are_read_in_order() -> None:
    text = "---\n" + yaml.safe_dump_all(OBJECTS) + "---\n# nothing here\n---\n"
    assert parse_manifest(text, "f.yaml") == Manifest(VALUES, ())


def test_json_is_read_too_with_tabs_even() -> None:
    for data, value in zip(OBJECTS, VALUES, strict=True):
        text = json.dumps(data, indent="\t")
        assert parse_manifest(text, "f.json") == Manifest((value,), ())


def test_a_list_holds_objects_of_any_kind() -> None:
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": OBJECTS})
    assert parse_manifest(text, "f.yaml").objects == VALUES


def test_the_items_of_a_typed_list_may_leave_out_their_kind() -> None:
    bare = {key: value for key, value in OBJECTS[0].items() if key not in {"kind", "apiVersion"}}
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "ServiceList", "items": [bare, OBJECTS[0]]})
    assert parse_manifest(text, "f.yaml").objects == (VALUES[0], VALUES[0])


def test_lists_may_hold_lists_and_nothing() -> None:
    inner = {"kind": "List", "items": [OBJECTS[0], None]}
    text = yaml.safe_dump({"kind": "List", "items": [inner, {"kind": "List", "items": []}]})
    assert parse_manifest(text, "f.yaml") == Manifest(VALUES[:1], ())


def test_other_kinds_are_passed_over() -> None:
    others: list[Json] = [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}},
        {"apiVersion": "v1", "kind": "Endpoints"},
        {"kind": "SomethingList"},
    ]
    assert parse_manifest(yaml.safe_dump_all(others), "f.yaml") == Manifest((), ())


def test_an_empty_text_holds_nothing() -> None:
    for text in ("", "\n", "# nothing", "---\n---\n"):
        assert parse_manifest(text, "f.yaml") == Manifest((), ())


def test_a_timestamp_is_the_text_it_is() -> None:
    metadata = "{name: a, creationTimestamp: 2026-01-01T00:00:00Z}"
    text = f"{{apiVersion: v1, kind: Service, metadata: {metadata}}}"
    ((_, value),) = parse_manifest(text, "f.yaml").objects
    assert isinstance(value, Service)
    assert value.created == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "kind: Service\napiVersion: v1\nmetadata: {name: a}\nspec: {ports: [{port: http}]}",
            "services: object a cannot be read and is left out: Expected `int`, got `str`",
        ),
        ("kind: Service\napiVersion: v1", "services: object (unknown name) cannot be read"),
        ("kind: Service\napiVersion: v1\nmetadata: {}", "this Service has no metadata.name"),
        (
            "kind: Service\nmetadata: {name: a}\napiVersion: apps/v1",
            "apiVersion 'apps/v1' is not that of kind Service",
        ),
        (
            "kind: EndpointSlice\nmetadata: {name: a}",
            "apiVersion '' is not that of kind EndpointSlice",
        ),
        ("just text", "this is no Kubernetes object: it has no kind"),
        ("[1, 2]", "this is no Kubernetes object: it has no kind"),
        ("kind: 1", "this is no Kubernetes object: it has no kind"),
        ("kind: List\nitems: [1]", "this is no Kubernetes object: it has no kind"),
    ],
)
def test_a_bad_object_costs_itself_only_and_is_told_with_its_line(text: str, fault: str) -> None:
    good = yaml.safe_dump(OBJECTS[0])
    found = parse_manifest(f"# first\n---\n{text}\n---\n{good}", "f.yaml")
    assert found.objects == VALUES[:1]
    assert len(found.faults) == 1
    assert found.faults[0].startswith("f.yaml:3: ")
    assert fault in found.faults[0]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: b: c", "f.yaml:3: not YAML: mapping values are not allowed in this context"),
        ("a: [1\nb: 2", "f.yaml:4: not YAML: "),
        ("a: *x", "f.yaml:3: not YAML: found undefined alias"),
        ("a: !!int x", "f.yaml:3: not YAML: invalid literal for int()"),
        ("a: !!bool maybe", "f.yaml:3: not YAML: 'maybe'"),
        ("a: !!int", "f.yaml:3: not YAML: string index out of range"),
        ("a: !!timestamp x", "f.yaml:3: not YAML: 'NoneType'"),
        ("a: !!python/object:os.system x", "f.yaml:3: not YAML: could not determine a constructor"),
        ("&a {kind: List, items: [*a]}", "f.yaml:3: lists are nested too deep"),
        ("a: \x01", "not YAML: unacceptable character #x0001"),
    ],
)
def test_what_is_no_yaml_costs_the_text_and_is_told_with_its_line(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_manifest(f"# first\n---\n{text}\n", "f.yaml")
    assert fault in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "kind: ",
                "Service",
                "List",
                "items: ",
                "metadata: ",
                "{",
                "}",
                "[",
                "]",
                "\n",
                " ",
                "- ",
                "---\n",
                "&a ",
                "*a",
                "!!int ",
                "!!timestamp ",
                "!!map ",
                "'",
                ": ",
                ",",
                "1",
                "2026-99-99",
                "\t",
                "name: ",
                "apiVersion: v1",
                "<<: ",
            ]
        )
        | st.characters(),
        max_size=12,
    ).map("".join)
)
def test_any_text_is_read_or_refused_with_a_config_error(text: str) -> None:
    try:
        found = parse_manifest(text, "f.yaml")
    except ConfigError as fault:
        assert str(fault).startswith("f.yaml:")  # noqa: PT017  both ends are good
    else:
        assert all(line.startswith("f.yaml:") for line in found.faults)
