"""A cluster's Services as they are served on a developer's machine."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pyproxy.config import ProxyConfig
from pyproxy.core.local_projection import Projection, projected
from pyproxy.core.local_service import LocalService, wanted_of
from pyproxy.core.loopback import Loopback, Rules
from pyproxy.core.store import Store
from pyproxy.model.endpoint import EndpointSlice, SliceEndpoint, SlicePort
from pyproxy.model.service import Service, ServicePort
from pyproxy.model.table import VipTable

if TYPE_CHECKING:
    from pyproxy.model.events import Event


def service(cluster_ip: str = "10.96.0.1", type_: str = "ClusterIP", port: int = 80) -> Service:
    return Service(
        namespace="shop",
        name="web",
        type=type_,
        cluster_ip=cluster_ip,
        cluster_ips={"IPv4": cluster_ip} if cluster_ip != "None" else {},
        ports=(ServicePort("http", "TCP", port, 30080),),
        external_ips=("203.0.113.1",),
        internal_local=True,
        affinity_seconds=60,
    )


def slice_of(*endpoints: SliceEndpoint, family: str = "IPv4", name: str = "web-1") -> EndpointSlice:
    return EndpointSlice(
        namespace="shop",
        name=name,
        service_name="web",
        address_type=family,  # type: ignore[arg-type]  # one of them
        endpoints=endpoints,
        ports=(SlicePort("http", "TCP", 8080),),
        headless=True,
    )


def pod(number: int, *, ready: bool = True, family: str = "IPv4") -> SliceEndpoint:
    address = f"10.1.0.{number}" if family == "IPv4" else f"fd00::{number}"
    return SliceEndpoint(address, ready=ready, serving=ready, zones=("z",), pod=f"web-{number}")


def tables(*stages: Iterable[LocalService]) -> list[VipTable]:
    """The table after each stage, as `pyproxy local` makes it."""
    loopback, projection, store = Loopback(Rules()), Projection(), Store(ProxyConfig())
    made = []
    for stage in stages:
        services = list(stage)
        placements = loopback.place([w for s in services for w in wanted_of(s)]).placements
        for event in projection.changes(projected(services, placements)):
            store.apply(event)
        made.append(store.table())
    return made


def reached(table: VipTable) -> dict[str, list[str]]:
    """Where each Service leads."""
    return {
        frontend.backend.name.name: [str(e) for e in frontend.backend.cluster]
        for frontend in table.frontends.values()
    }


def test_a_service_stands_at_its_loopback_address_with_its_pods_behind() -> None:
    local = LocalService(service=service(), slices=(slice_of(pod(1), pod(2)),))
    (table,) = tables([local])
    (frontend,) = table.frontends.values()
    assert frontend.address.startswith("127.")
    assert (frontend.port, frontend.kind) == (8080, "ClusterIP")  # 80 takes privileges
    assert frontend.backend.affinity_seconds == 60
    assert not frontend.backend.internal_local
    assert reached(table) == {"web": ["10.1.0.1:8080", "10.1.0.2:8080"]}


def test_each_ready_pod_of_a_headless_service_stands_for_itself() -> None:
    slices = (slice_of(pod(1), pod(2), pod(3, ready=False)),)
    (table,) = tables([LocalService(service=service("None"), slices=slices)])
    assert reached(table) == {"web.web-1": ["10.1.0.1:8080"], "web.web-2": ["10.1.0.2:8080"]}
    assert len({address for address, _, _ in table.frontends}) == 2


def test_endpoints_of_ipv6_only_are_reached_from_ipv4_loopback() -> None:
    local = LocalService(
        service=service(), slices=(slice_of(pod(1, family="IPv6"), family="IPv6"),)
    )
    assert reached(tables([local])[0]) == {"web": ["[fd00::1]:8080"]}


def test_of_two_families_ipv4_is_taken() -> None:
    slices = (slice_of(pod(1)), slice_of(pod(1, family="IPv6"), family="IPv6", name="web-2"))
    local = LocalService(service=service(), slices=slices)
    assert reached(tables([local])[0]) == {"web": ["10.1.0.1:8080"]}


def test_an_external_name_is_not_served_nor_what_has_no_place() -> None:
    external = LocalService(service=service(type_="ExternalName"))
    assert tables([external])[0].frontends == {}
    local = LocalService(service=service(), slices=(slice_of(pod(1)),))
    headless = LocalService(service=service("None"), slices=(slice_of(pod(1)),))
    assert list(projected([local, headless], {})) == []


def test_changes_lead_from_one_state_to_the_next_and_say_nothing_twice() -> None:
    local = LocalService(service=service(), slices=(slice_of(pod(1)),))
    other = LocalService(service=service(), slices=(slice_of(pod(2)),))
    first, second, third = tables([local], [other], [])
    assert reached(first) == {"web": ["10.1.0.1:8080"]}
    assert reached(second) == {"web": ["10.1.0.2:8080"]}
    assert reached(third) == {}
    projection, loopback = Projection(), Loopback(Rules())
    placements = loopback.place(wanted_of(local)).placements
    said: list[Event] = projection.changes(projected([local], placements))
    assert len(said) == 2
    assert projection.changes(projected([local], placements)) == []
