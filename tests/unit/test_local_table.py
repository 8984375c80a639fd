"""The table of what is served locally."""

from pyproxy.core.local_service import Claimant, LocalService
from pyproxy.core.local_table import rows_of, to_json, to_lines
from pyproxy.core.loopback import LocalPort, Placement, Placements
from tests.support.builders import endpoint_slice, service

WEB = Claimant("", "default", "web")
POD = Claimant("", "default", "db", "10-0-0-1")
PORTS = (LocalPort("http", "TCP", 80, 8080), LocalPort("admin", "TCP", 9090, 9090))
PLACEMENTS: Placements = {
    WEB: Placement(WEB, "127.5.6.7", PORTS),
    POD: Placement(POD, "127.5.6.8", (LocalPort("dns", "UDP", 53, 8053),)),
}
SERVICES = (
    LocalService(service=service(), slices=(endpoint_slice("10.0.0.1", "10.0.0.2"),)),
    LocalService(
        service=service(name="db", cluster_ip="None"),
        slices=(endpoint_slice("10.0.0.1", service="db"),),
    ),
    LocalService(service=service(name="empty", cluster_ip="None")),
    LocalService(service=service(name="ext", type="ExternalName", externalName="example.com")),
)


def lines(*services: LocalService, notes: dict[Claimant, str] | None = None) -> list[str]:
    return list(to_lines(rows_of(services, PLACEMENTS, notes or {})))


def test_each_service_or_pod_is_a_line_of_aligned_columns() -> None:
    assert lines(*SERVICES) == [
        "SERVICE              KIND          ADDRESS    PORTS          ENDPOINTS  NOTE",
        "default/db/10-0-0-1  Headless      127.5.6.8  53->8053/UDP   1",
        "default/empty        Headless      -          -              0          no ready endpoint",
        "default/ext          ExternalName  -          -              0"
        "          a name for example.com",
        "default/web          ClusterIP     127.5.6.7  80->8080,9090  2",
    ]


def test_the_order_of_arrival_is_nothing() -> None:
    assert lines(*reversed(SERVICES)) == lines(*SERVICES)


def test_what_forwarding_has_to_say_goes_before_our_own_note() -> None:
    assert lines(*SERVICES, notes={WEB: "by port-forward"})[-1].endswith(
        "2          by port-forward"
    )


def test_the_context_is_shown_where_there_are_several() -> None:
    other = LocalService(context="prod", service=service(name="api"))
    heading, first, second = lines(SERVICES[0], other)
    assert heading.startswith("CONTEXT  SERVICE")
    assert first.startswith("-        default/web")
    assert second.startswith("prod     default/api")


def test_json_has_the_same_as_data() -> None:
    first, _, external, last = to_json(rows_of(SERVICES, PLACEMENTS, {}))["services"]
    assert first["pod"] == "10-0-0-1"
    assert external["address"] is None
    assert last == {
        "context": "",
        "namespace": "default",
        "name": "web",
        "pod": None,
        "kind": "ClusterIP",
        "address": "127.5.6.7",
        "ports": [
            {"name": "http", "protocol": "TCP", "port": 80, "local": 8080},
            {"name": "admin", "protocol": "TCP", "port": 9090, "local": 9090},
        ],
        "endpoints": 2,
        "note": "",
    }


def test_an_empty_table_has_its_heading() -> None:
    assert lines() == ["SERVICE  KIND  ADDRESS  PORTS  ENDPOINTS  NOTE"]
