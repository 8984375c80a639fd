"""What the pyproxy.io/ annotations of a Service ask for, and what is told of bad ones."""

from typing import Any

import pytest

from pyproxy.core.options import ANNOTATIONS, options_of, written
from pyproxy.model.options import DEFAULT_OPTIONS, ServiceOptions
from tests.support.builders import (
    CLUSTER_IP,
    POD,
    VIP,
    Json,
    applied,
    explained,
    make_service,
    make_slice,
    make_store,
    with_config,
)


def keyed(annotations: dict[str, str]) -> dict[str, str]:
    """Annotations by their keys; underscores stand for hyphens."""
    return {f"pyproxy.io/{key.replace('_', '-')}": text for key, text in annotations.items()}


def annotated(**annotations: str) -> Json:
    """A Service with annotations."""
    made = make_service()
    made["metadata"]["annotations"] = keyed(annotations)
    return made


def asked(**annotations: str) -> tuple[ServiceOptions, list[str]]:
    return options_of(keyed(annotations), DEFAULT_OPTIONS)


@pytest.mark.parametrize(
    ("annotation", "text", "option", "value"),
    [
        ("balance", "least-connections", "balance", "least-connections"),
        ("balance", "round-robin", "balance", "round-robin"),
        ("balance", "random", "balance", "random"),
        ("balance", " consistent-hash ", "balance", "consistent-hash"),
        ("slow_start", "30s", "slow_start_s", 30.0),
        ("slow_start", "0s", "slow_start_s", 0.0),
        ("slow_start", "0", "slow_start_s", 0.0),
        ("ejection", "on", "ejects", True),
        ("ejection", "off", "ejects", False),
        ("on_endpoint_removed", "drain", "on_endpoint_removed", "drain"),
        ("on_endpoint_removed", "keep", "on_endpoint_removed", "keep"),
        ("on_endpoint_removed", "close", "on_endpoint_removed", "close"),
        ("max_connections", "1", "max_connections", 1),
        ("max_connections", "100000", "max_connections", 100_000),
        ("idle_timeout", "1h30m", "idle_timeout_s", 5400.0),
        ("max_connection_age", "250ms", "max_connection_age_s", 0.25),
        ("connect_timeout", "1.5s", "connect_timeout_s", 1.5),
        ("proxy_protocol", "v2", "proxy_protocol", True),
        ("proxy_protocol", "off", "proxy_protocol", False),
    ],
)
def test_an_annotation_sets_one_option(
    annotation: str, text: str, option: str, value: object
) -> None:
    options, problems = asked(**{annotation: text})
    assert problems == []
    assert getattr(options, option) == value
    expected: dict[str, Any] = {option: value}
    assert options == ServiceOptions(**expected)


_NO_DURATION = "is not a duration such as 1m30s"


@pytest.mark.parametrize(
    ("annotation", "text", "problem"),
    [
        (
            "balance",
            "rr",
            "is none of least-connections, round-robin, random, consistent-hash;"
            " using least-connections",
        ),
        ("balance", "", "is none of least-connections, round-robin, random, consistent-hash;"),
        ("balance", "Random", "is none of least-connections, round-robin,"),
        ("slow_start", "30", f"{_NO_DURATION}; using 0s"),
        ("slow_start", "-1s", "is less than 0; using 0s"),
        ("ejection", "true", "is none of on, off; using on"),
        ("on_endpoint_removed", "kill", "is none of drain, keep, close; using drain"),
        ("max_connections", "0", "is not a whole number, 1 or more; using the default"),
        ("max_connections", "-1", "is not a whole number, 1 or more; using the default"),
        ("max_connections", "1.5", "is not a whole number, 1 or more; using the default"),
        ("max_connections", "\u0661", "is not a whole number, 1 or more; using the default"),
        ("max_connections", "9" * 5000, "is not a whole number, 1 or more; using the default"),
        ("idle_timeout", "0s", "is not more than 0; using the default"),
        ("max_connection_age", "1 day", f"{_NO_DURATION}; using the default"),
        ("connect_timeout", "-5s", "is not more than 0; using the default"),
        ("proxy_protocol", "v1", "is none of v2, off; using off"),
    ],
)
def test_a_value_that_cannot_be_used_leaves_the_default_and_is_told(
    annotation: str, text: str, problem: str
) -> None:
    options, problems = asked(**{annotation: text})
    assert options == DEFAULT_OPTIONS
    (told,) = problems
    name = annotation.replace("_", "-")
    assert told.startswith(f"metadata.annotations: pyproxy.io/{name}: {text!r} {problem}")


def test_without_annotations_the_defaults_themselves_are_taken() -> None:
    defaults = ServiceOptions(balance="random")
    assert options_of({}, defaults)[0] is defaults


def test_a_default_that_is_set_holds_where_no_annotation_says_otherwise() -> None:
    defaults = ServiceOptions(idle_timeout_s=90, ejects=False, proxy_protocol=True)
    options, problems = options_of(
        {"pyproxy.io/idle-timeout": "x", "pyproxy.io/ejection": "on"}, defaults
    )
    assert options == ServiceOptions(idle_timeout_s=90, ejects=True, proxy_protocol=True)
    assert problems == [
        f"metadata.annotations: pyproxy.io/idle-timeout: 'x' {_NO_DURATION}; using 1m30s"
    ]


def test_one_bad_annotation_does_not_spoil_the_others() -> None:
    options, problems = asked(balance="random", ejection="no", idle_timeout="5m")
    assert options == ServiceOptions(balance="random", idle_timeout_s=300)
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("balnce", "did you mean pyproxy.io/balance?"),
        ("idle-timeout-seconds", "did you mean pyproxy.io/idle-timeout?"),
        ("x", f"known are {', '.join(ANNOTATIONS)}"),
    ],
)
def test_an_unknown_annotation_is_told_with_the_nearest_one(key: str, hint: str) -> None:
    options, problems = asked(**{key: "1"})
    assert options == DEFAULT_OPTIONS
    assert problems == [f"metadata.annotations: pyproxy.io/{key} is not known; {hint}"]


def test_every_option_that_annotations_set_is_written_as_they_have_it() -> None:
    texts = {
        "balance": "random",
        "slow-start": "30s",
        "ejection": "off",
        "on-endpoint-removed": "keep",
        "max-connections": "7",
        "idle-timeout": "1h0m0s",
        "max-connection-age": "1m30s",
        "connect-timeout": "250ms",
        "proxy-protocol": "v2",
    }
    options, _ = options_of({f"pyproxy.io/{k}": v for k, v in texts.items()}, DEFAULT_OPTIONS)
    assert written(options) == [f"{key} {text}" for key, text in texts.items()]
    assert written(DEFAULT_OPTIONS) == []


# --- from the object to the backend, and to whoever is to know -----------------------------------


def test_a_backend_has_the_options_of_its_service_and_other_backends_the_defaults() -> None:
    defaults = ServiceOptions(slow_start_s=30)
    store = make_store(
        annotated(balance="random"),
        make_service("plain", cluster_ip="172.30.0.9"),
        config=with_config(options=defaults),
    )
    frontends = store.table().frontends
    expected = ServiceOptions(slow_start_s=30, balance="random")
    assert frontends[CLUSTER_IP, 80, "TCP"].backend.options == expected
    assert frontends["172.30.0.9", 80, "TCP"].backend.options is defaults


def test_a_changed_annotation_is_a_change_of_the_frontends() -> None:
    store = make_store(annotated(balance="random"))
    changes = store.apply(applied(annotated(balance="round-robin")))
    assert list(changes.frontends) == [(CLUSTER_IP, 80, "TCP")]


def test_an_annotation_that_cannot_be_used_is_told_once_and_names_its_service() -> None:
    store = make_store()
    first, _ = store.apply(applied(annotated(balance="rr", max_connections="x"))).notes
    assert first.text == (
        "Service default/web: metadata.annotations: pyproxy.io/balance: 'rr' is none of"
        " least-connections, round-robin, random, consistent-hash; using least-connections"
    )
    assert first.annotated == ("default", "web")
    assert store.apply(applied(annotated(balance="rr"))).notes == ()
    (other,) = store.apply(applied(annotated(balance="lc"))).notes
    assert "'lc'" in other.text
    assert store.apply(applied(annotated(balance="random"))).notes == ()


def test_annotations_of_services_that_others_proxy_are_not_told() -> None:
    store, others = make_store(), annotated(x="y")
    others["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "other"}
    assert store.apply(applied(others)).notes == ()
    assert len(store.apply(applied(annotated(x="y"))).notes) == 1


def test_explain_tells_the_options_that_are_not_the_default() -> None:
    store = make_store(
        annotated(balance="round-robin", max_connections="100", proxy_protocol="v2"),
        make_slice("10.180.0.1"),
    )
    checks = {check["check"]: check["detail"] for check in explained(store, VIP, POD)["checks"]}
    assert checks["Options"] == "balance round-robin, max-connections 100, proxy-protocol v2"
