"""Falling back to the API servers that the cluster tells of."""

from pyproxy.core.apiservers import ApiServers
from pyproxy.model.events import Applied, Deleted, Listed
from tests.support.builders import endpoint_slice, make_endpoint

CONFIGURED = "https://api.example:6443"
ONE, TWO = "https://10.0.0.1:6443", "https://10.0.0.2:6443"
PORTS = [{"name": "https", "port": 6443}, {"name": "other", "port": 1}]


def kubernetes(*addresses: str, name: str = "kubernetes") -> Applied:
    value = endpoint_slice(*addresses, service="kubernetes", name=name, ports=PORTS)
    return Applied("endpointslices", value)


def test_the_configured_address_is_used_while_it_can_be_reached() -> None:
    servers = ApiServers()
    servers.observe(kubernetes("10.0.0.1"))
    assert servers.current(CONFIGURED) == CONFIGURED


def test_without_a_slice_there_is_nothing_to_fall_back_to() -> None:
    servers = ApiServers()
    assert servers.unreachable(CONFIGURED, CONFIGURED) == CONFIGURED


def test_each_address_is_tried_in_turn_and_the_configured_one_again() -> None:
    servers = ApiServers()
    servers.observe(kubernetes("10.0.0.2", "10.0.0.1"))
    tried = [CONFIGURED]
    for _ in range(4):
        tried.append(servers.unreachable(tried[-1], CONFIGURED))
    assert tried == [CONFIGURED, ONE, TWO, CONFIGURED, ONE]


def test_watches_that_fail_together_move_on_once() -> None:
    servers = ApiServers()
    servers.observe(kubernetes("10.0.0.1", "10.0.0.2"))
    assert [servers.unreachable(CONFIGURED, CONFIGURED) for _ in range(4)] == [ONE] * 4


def test_an_address_that_left_the_slice_is_left_for_the_configured_one() -> None:
    servers = ApiServers()
    servers.observe(kubernetes("10.0.0.1"))
    assert servers.unreachable(CONFIGURED, CONFIGURED) == ONE
    servers.observe(Deleted("endpointslices", ("default", "kubernetes")))
    assert servers.unreachable(ONE, CONFIGURED) == CONFIGURED


def test_other_slices_unready_endpoints_and_other_resources_are_no_addresses() -> None:
    servers = ApiServers()
    servers.observe(Applied("endpointslices", endpoint_slice("10.9.9.9", service="web")))
    gone = endpoint_slice(make_endpoint("10.0.0.9", ready=False), service="kubernetes", ports=PORTS)
    servers.observe(Applied("endpointslices", gone))
    servers.observe(Listed("services", ()))
    servers.observe(Deleted("services", ("default", "kubernetes")))
    assert servers.unreachable(CONFIGURED, CONFIGURED) == CONFIGURED


def test_a_list_replaces_what_was_known() -> None:
    servers = ApiServers()
    servers.observe(kubernetes("10.0.0.1"))
    servers.observe(Listed("endpointslices", (kubernetes("10.0.0.2", name="b").value,)))
    assert servers.unreachable(CONFIGURED, CONFIGURED) == TWO
