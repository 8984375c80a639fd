"""Health-check node ports: who has one, what it counts, what it answers (PARITY 12.1 to 12.10)."""

import json
from typing import Any

import pytest

from pyproxy.core.health_check import HealthCheck, HealthChecks, listen_addresses
from pyproxy.core.store import Store
from pyproxy.model.events import Applied, Deleted, Event, Listed
from pyproxy.model.node import NodeView
from pyproxy.model.service import ServiceName
from tests.support.builders import (
    CONFIG,
    LEAVING,
    NODE,
    UNREADY,
    Json,
    applied,
    load_balancer,
    make_dual_stack_service,
    make_endpoint,
    make_node,
    make_service,
    make_slice,
    make_store,
    with_config,
)

PORT = 32001
WEB = ServiceName("default", "web")


def checked(**more: Any) -> Json:
    """A Service with a health-check node port."""
    defaults: Json = {"externalTrafficPolicy": "Local", "healthCheckNodePort": PORT}
    return load_balancer(**{**defaults, **more})


class World:
    """A store, and what follows it."""

    def __init__(self, *objects: Json, config: Any = CONFIG) -> None:
        self.store = Store(config)
        self.checks = HealthChecks(self.store)
        for found in objects:
            self.apply(applied(found))

    def apply(self, event: Event) -> bool:
        self.store.apply(event)
        return self.checks.apply(event)

    def counts(self) -> dict[int, Any]:
        return {port: dict(check.counts) for port, check in self.checks.wanted().items()}


def endpoint(address: str, node: str = NODE, **conditions: Any) -> Json:
    return make_endpoint(address, node=node, **conditions)


@pytest.mark.parametrize(
    ("service", "has_one"),
    [
        (checked(), True),
        (checked(externalTrafficPolicy="Cluster"), False),
        (checked(type="NodePort"), False),
        (checked(healthCheckNodePort=0), False),
        (checked(healthCheckNodePort=None), False),
        (checked(labels={"service.kubernetes.io/service-proxy-name": "other"}), False),
        (checked(cluster_ip="None"), False),
    ],
)
def test_only_a_load_balancer_with_policy_local_and_a_port_has_one(
    service: Json, has_one: bool
) -> None:
    world = World(service)
    assert list(world.checks.wanted()) == ([PORT] if has_one else [])


def test_a_service_with_our_proxy_name_has_one() -> None:
    labels = {"service.kubernetes.io/service-proxy-name": "pyproxy"}
    assert World(checked(labels=labels), config=with_config(proxy_name="pyproxy")).counts()


def test_it_is_there_without_any_endpoint_and_counts_none() -> None:
    assert World(checked()).counts() == {PORT: {"IPv4": 0}}


def test_it_counts_the_ready_endpoints_of_this_node() -> None:
    world = World(
        checked(),
        make_slice(
            endpoint("10.0.0.1"),
            endpoint("10.0.0.2", node="node-2"),
            endpoint("10.0.0.3", **LEAVING),
            endpoint("10.0.0.4", **UNREADY),
            endpoint("10.0.0.5"),
        ),
    )
    assert world.counts() == {PORT: {"IPv4": 2}}


def test_two_ports_of_a_pod_and_two_slices_with_it_count_once() -> None:
    ports = [{"name": "http", "port": 80}, {"name": "admin", "port": 81}]
    world = World(
        checked(),
        make_slice(endpoint("10.0.0.1"), ports=ports, name="web-1"),
        make_slice(endpoint("10.0.0.1"), ports=ports, name="web-2"),
    )
    assert world.counts() == {PORT: {"IPv4": 1}}


def test_a_slice_without_ports_counts_nothing() -> None:
    assert World(checked(), make_slice(endpoint("10.0.0.1"), ports=[])).counts() == {
        PORT: {"IPv4": 0}
    }


def test_each_family_of_the_service_counts_for_itself() -> None:
    service = make_dual_stack_service(
        type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=PORT
    )
    world = World(
        service,
        make_slice(endpoint("10.0.0.1"), endpoint("10.0.0.2")),
        make_slice(endpoint("fd00:10::1"), name="web-6", address_type="IPv6"),
    )
    assert world.counts() == {PORT: {"IPv4": 2, "IPv6": 1}}


def test_the_first_service_by_name_has_a_port_that_two_ask_for() -> None:
    world = World(checked(name="b", cluster_ip="172.30.0.2"), checked(name="a"))
    assert world.checks.wanted()[PORT].service == ServiceName("default", "a")


def test_changes_are_told_and_only_those() -> None:
    world = World()
    assert not world.apply(applied(make_node()))
    assert world.apply(applied(checked()))
    assert not world.apply(applied(checked()))
    assert world.apply(applied(make_slice(endpoint("10.0.0.1"))))
    assert not world.apply(applied(make_slice(endpoint("10.0.0.1"), endpoint("10.0.0.2", "n2"))))
    assert not world.apply(applied(make_slice(endpoint("10.1.0.1"), service="other", name="o")))
    assert not world.apply(applied(make_service("plain", cluster_ip="172.30.0.9")))
    assert world.counts() == {PORT: {"IPv4": 1}}
    assert world.apply(applied(checked(healthCheckNodePort=PORT + 1)))
    assert world.counts() == {PORT + 1: {"IPv4": 1}}
    assert world.apply(applied(checked(externalTrafficPolicy="Cluster")))
    assert world.counts() == {}


def test_deleting_slice_and_service_takes_count_and_port_away() -> None:
    world = World(checked(), make_slice(endpoint("10.0.0.1"), name="web-1"))
    assert not world.apply(Deleted("endpointslices", ("default", "unheard-of")))
    assert world.apply(Deleted("endpointslices", ("default", "web-1")))
    assert world.counts() == {PORT: {"IPv4": 0}}
    assert world.apply(Deleted("services", ("default", "web")))
    assert not world.apply(Deleted("services", ("default", "web")))
    assert world.counts() == {}


def test_a_slice_that_moves_to_another_service_moves_its_count() -> None:
    world = World(
        checked(),
        checked(name="b", cluster_ip="172.30.0.2", healthCheckNodePort=PORT + 1),
        make_slice(endpoint("10.0.0.1"), name="s"),
    )
    assert world.apply(applied(make_slice(endpoint("10.0.0.1"), name="s", service="b")))
    assert world.counts() == {PORT: {"IPv4": 0}, PORT + 1: {"IPv4": 1}}


def test_a_list_replaces_everything() -> None:
    world = World(checked(), make_slice(endpoint("10.0.0.1"), name="web-1"))
    new = applied(make_slice(endpoint("10.0.0.1"), endpoint("10.0.0.2"), name="web-2"))
    assert isinstance(new, Applied)
    assert world.apply(Listed("endpointslices", (new.value,)))
    assert world.counts() == {PORT: {"IPv4": 2}}
    assert world.apply(Deleted("endpointslices", ("default", "web-2")))
    other = applied(checked(name="b", healthCheckNodePort=PORT + 1))
    assert world.apply(Listed("services", (other.value,)))
    assert world.counts() == {PORT + 1: {"IPv4": 0}}
    assert not world.apply(Listed("services", (other.value,)))
    assert not world.apply(Listed("servicecidrs", ()))


@pytest.mark.parametrize(
    ("count", "is_healthy", "status"), [(1, True, 200), (0, True, 503), (1, False, 503)]
)
def test_it_answers_200_while_an_endpoint_is_ready_and_the_proxy_healthy(
    count: int, is_healthy: bool, status: int
) -> None:
    check = HealthCheck(WEB, PORT, {"IPv4": count})
    found, headers, body = check.answer("IPv4", is_healthy=is_healthy)
    assert found == status
    assert headers == {
        "Content-Type": "application/json",
        "X-Content-Type-Options": "nosniff",
        "X-Load-Balancing-Endpoint-Weight": str(count),
    }
    assert json.loads(body) == {
        "service": {"namespace": "default", "name": "web"},
        "localEndpoints": count,
        "serviceProxyHealthy": is_healthy,
    }


def test_the_body_is_indented_as_go_does() -> None:
    body = HealthCheck(WEB, PORT, {"IPv4": 2}).answer("IPv4", is_healthy=True)[2]
    assert body == (
        '{\n\t"service": {\n\t\t"namespace": "default",\n\t\t"name": "web"\n\t},\n'
        '\t"localEndpoints": 2,\n\t"serviceProxyHealthy": true\n}'
    )


def test_a_family_that_the_service_does_not_have_has_no_endpoint() -> None:
    assert HealthCheck(WEB, PORT, {"IPv4": 2}).answer("IPv6", is_healthy=True)[0] == 503


@pytest.mark.parametrize(
    ("local", "served", "expected"),
    [
        (["127.0.0.1", "10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["0.0.0.0"]),
        (["127.0.0.1", "10.0.0.1"], ["10.0.0.1"], ["10.0.0.1"]),
        (["::1", "fd00::1", "fe80::1", "10.0.0.1"], ["::1", "fd00::1"], ["::"]),
        (["10.0.0.1", "::1"], ["10.0.0.1", "::1"], ["0.0.0.0", "::"]),
        ([], [], []),
    ],
)
def test_it_listens_where_node_ports_are_served(
    local: list[str], served: list[str], expected: list[str]
) -> None:
    node = NodeView(local_addresses=frozenset(local), node_port_addresses=tuple(served))
    assert list(listen_addresses(node)) == expected


def test_without_restriction_it_listens_on_every_address() -> None:
    assert listen_addresses(make_store().table().node) == ("0.0.0.0", "::")
