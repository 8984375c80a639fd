"""Which Services are proxied at all, and which slices count (PARITY 1.2 to 1.5, 2.1)."""

import pytest

from pyproxy.core.selection import feeds_endpoints, why_not_proxied
from pyproxy.model.service import PROXY_NAME_LABEL
from tests.support.builders import (
    EXTERNAL,
    EXTERNAL_IP,
    LOCAL,
    NODE_PORT,
    NODE_PORT_TARGET,
    POD,
    VIP,
    Json,
    endpoint_slice,
    make_port,
    make_service,
    make_service_cidr,
    make_slice,
    make_store,
    outcome,
    service,
    with_config,
)


@pytest.mark.parametrize(
    ("service", "target", "expected"),
    [
        pytest.param(
            make_service(type="ExternalName", externalName="a.example"),
            VIP,
            "ExternalName",
            id="ExternalName with a ClusterIP",
        ),
        pytest.param(make_service(cluster_ip="None"), EXTERNAL, "Headless", id="headless"),
        pytest.param(make_service(cluster_ip=""), EXTERNAL, "NoClusterIP", id="none yet"),
        pytest.param(
            make_service(labels={"service.kubernetes.io/service-proxy-name": ""}),
            VIP,
            "OtherProxy",
            id="another proxy's, by an empty name even",
        ),
        pytest.param(
            make_service(
                ports=[make_port(node_port=NODE_PORT)],
                labels={"service.kubernetes.io/service-proxy-name": "x"},
            ),
            NODE_PORT_TARGET,
            "OtherProxy",
            id="its node port",
        ),
    ],
)
def test_services_that_are_not_proxied_are_left_alone(
    service: Json, target: str, expected: str
) -> None:
    if target == EXTERNAL:
        service["spec"]["externalIPs"] = [EXTERNAL_IP]
    store = make_store(service, make_slice(LOCAL))
    assert outcome(store, target) == f"none {expected}"
    assert outcome(store, "default/web") == f"none {expected}"


def test_the_cluster_ip_of_another_proxys_service_is_dropped_in_a_service_cidr() -> None:
    """By kube-proxy's filter it is no active ClusterIP: two proxies must not share ServiceCIDRs."""
    store = make_store(
        make_service(labels={"service.kubernetes.io/service-proxy-name": "x"}),
        make_service_cidr("172.30.0.0/16"),
    )
    assert outcome(store, VIP, POD) == "drop OtherProxy"


def test_a_proxy_with_a_name_serves_the_services_of_that_name_and_drops_no_unknown_address() -> (
    None
):
    store = make_store(
        make_service(labels={"service.kubernetes.io/service-proxy-name": "mine"}),
        make_service("other", cluster_ip="172.30.0.42"),
        make_slice(LOCAL),
        make_service_cidr("172.30.0.0/16"),
        config=with_config(proxy_name="mine"),
    )
    assert outcome(store, VIP, POD) == f"forward {LOCAL}:80 as client"
    assert outcome(store, "172.30.0.42:80", POD) == "none OtherProxy"
    assert outcome(store, "172.30.0.99:80", POD) == "none NotAService"


@pytest.mark.parametrize(
    ("service_data", "proxy_name", "expected"),
    [
        ({}, None, None),
        ({"type": "ExternalName"}, None, "ExternalName"),
        ({"cluster_ip": "None"}, None, "Headless"),
        ({"cluster_ip": ""}, None, "NoClusterIP"),
        ({"cluster_ip": "10.96.0.999"}, None, "NoClusterIP"),
        ({"labels": {PROXY_NAME_LABEL: "x"}}, None, "OtherProxy"),
        ({"labels": {PROXY_NAME_LABEL: ""}}, None, "OtherProxy"),
        ({}, "x", "OtherProxy"),
        ({"labels": {PROXY_NAME_LABEL: "x"}}, "x", None),
        ({"labels": {PROXY_NAME_LABEL: "X"}}, "x", "OtherProxy"),
        ({"labels": {"service.kubernetes.io/headless": ""}}, None, None),
    ],
)
def test_a_service_is_proxied_unless_there_is_a_reason(
    service_data: Json, proxy_name: str | None, expected: str | None
) -> None:
    assert why_not_proxied(service(**service_data), proxy_name) == expected


@pytest.mark.parametrize(
    ("slice_data", "expected"),
    [
        ({}, True),
        ({"labels": {PROXY_NAME_LABEL: "x"}}, True),
        ({"labels": {"endpointslice.kubernetes.io/managed-by": "by hand"}}, True),
        ({"labels": {"service.kubernetes.io/headless": ""}}, False),
        ({"service": None, "name": "x"}, False),
        ({"service": "", "name": "x"}, False),
    ],
)
def test_a_slice_counts_when_it_names_a_service_that_is_not_headless(
    slice_data: Json, expected: bool
) -> None:
    assert feeds_endpoints(endpoint_slice("10.0.0.1", **slice_data)) is expected
