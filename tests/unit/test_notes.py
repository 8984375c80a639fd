"""What a person is told of the objects: once, by name, with what follows from it."""

from pyproxy.core.store import Store
from tests.support.builders import (
    CONFIG,
    Json,
    applied,
    make_port,
    make_service,
    make_slice,
    with_config,
)


def notes(store: Store, data: Json) -> list[str]:
    return [note.text for note in store.apply(applied(data)).notes]


def test_objects_in_order_are_not_worth_a_note() -> None:
    store = Store(CONFIG)
    assert notes(store, make_service()) == []
    assert notes(store, make_slice("10.180.0.1")) == []


def test_problems_are_told_with_the_object_once() -> None:
    store = Store(CONFIG)
    bad = make_service(externalIPs=["1.2.3"])
    assert notes(store, bad) == [
        "Service default/web: spec.externalIPs: '1.2.3' is not an IP address"
    ]
    assert notes(store, bad) == []
    worse = make_service(externalIPs=["1.2.3", "x"])
    assert notes(store, worse) == [
        "Service default/web: spec.externalIPs: 'x' is not an IP address"
    ]
    assert notes(store, make_service()) == []
    assert len(notes(store, bad)) == 1


def test_a_slice_that_names_no_service_is_told() -> None:
    expected = "it has no label kubernetes.io/service-name, so it feeds no Service"
    assert notes(Store(CONFIG), make_slice("10.180.0.1", service=None, name="s")) == [
        f"EndpointSlice default/s: {expected}"
    ]


def test_problems_of_a_slice_are_told() -> None:
    assert notes(Store(CONFIG), make_slice("10.0.0.999", name="s")) == [
        "EndpointSlice default/s: endpoints.addresses: '10.0.0.999' is not an IP address"
    ]


def test_an_external_name_is_told_with_the_name() -> None:
    (note,) = notes(Store(CONFIG), make_service(type="ExternalName", externalName="a.example"))
    assert note.startswith("Service default/web: an ExternalName Service is not proxied")
    assert "'a.example'" in note
    labels = {"service.kubernetes.io/service-proxy-name": "x"}
    store = Store(with_config(proxy_name="x"))
    assert notes(store, make_service(labels=labels)) == []


def test_sctp_ports_are_told() -> None:
    ports = [make_port(), make_port(90, "s", "SCTP")]
    assert notes(Store(CONFIG), make_service(ports=ports)) == [
        "Service default/web: spec.ports: port 90/SCTP is left out: SCTP is not supported"
    ]
