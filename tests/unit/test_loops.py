"""Endpoints that lead back to the frontend they were picked for."""

from pyproxy.core.loops import leads_back
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.service import ServicePortName
from pyproxy.model.table import Backend, Frontend, FrontendKey

Table = dict[FrontendKey, Frontend]


def table(**leads_to: list[str]) -> Table:
    """Frontends named by letters; each leads to others, or to pods named otherwise."""
    made: Table = {}
    for name, hops in leads_to.items():
        backend = Backend(
            name=ServicePortName("default", name, "", "TCP"),
            family="IPv4",
            cluster=tuple(Endpoint(hop, 80) for hop in hops),
        )
        frontend = Frontend(name, 80, "TCP", "ClusterIP", backend)
        made[frontend.key] = frontend
    return made


def goes_round(origin: str, hop: str, frontends: Table) -> bool:
    return leads_back(Endpoint(hop, 80), frontends[origin, 80, "TCP"], frontends)


def test_a_pod_leads_nowhere() -> None:
    assert not goes_round("a", "pod", table(a=["pod"]))


def test_a_service_whose_endpoint_is_its_own_vip_goes_round() -> None:
    assert goes_round("a", "a", table(a=["a", "pod"]))
    assert not goes_round("a", "pod", table(a=["a", "pod"]))


def test_another_service_may_be_an_endpoint() -> None:
    assert not goes_round("a", "b", table(a=["b"], b=["pod"]))


def test_a_circle_of_several_is_seen_from_each() -> None:
    frontends = table(a=["b"], b=["pod", "c"], c=["a"])
    assert goes_round("a", "b", frontends)
    assert goes_round("b", "c", frontends)
    assert goes_round("c", "a", frontends)


def test_a_circle_further_on_is_for_its_own_frontends_to_refuse() -> None:
    frontends = table(a=["b"], b=["c"], c=["b"])
    assert not goes_round("a", "b", frontends)
    assert goes_round("b", "c", frontends)


def test_ways_that_meet_again_are_walked_once() -> None:
    layers: dict[str, list[str]] = {"a": ["b0", "c0"]}
    for n in range(40):
        layers[f"b{n}"] = layers[f"c{n}"] = [f"b{n + 1}", f"c{n + 1}"]
    assert not goes_round("a", "b0", table(**layers))
