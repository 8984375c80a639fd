"""Which Service ports still have frontends."""

from pyproxy.app.uses import Uses
from pyproxy.model.addresses import Family
from pyproxy.model.service import ServiceName, ServicePortName
from pyproxy.model.table import Backend, Frontend, FrontendKey

WEB = ServicePortName("default", "web", "http", "TCP")
ADMIN = WEB._replace(port="admin")


def frontend(port: int, name: ServicePortName = WEB, family: Family = "IPv4") -> Frontend:
    address = "10.96.0.1" if family == "IPv4" else "fd00::1"
    return Frontend(address, port, "TCP", "ClusterIP", Backend(name=name, family=family))


class Table:
    """A table and the uses that follow it."""

    def __init__(self) -> None:
        self.uses = Uses()
        self.frontends: dict[FrontendKey, Frontend] = {}

    def put(self, *new: Frontend) -> None:
        self.uses.change([], new, self.frontends)
        self.frontends.update((f.key, f) for f in new)

    def remove(self, *gone: Frontend) -> None:
        self.uses.change(gone, [], self.frontends)
        for one in gone:
            del self.frontends[one.key]


def test_a_service_port_is_used_until_its_last_frontend_is_gone() -> None:
    table = Table()
    table.put(frontend(80), frontend(81))
    table.remove(frontend(80))
    assert table.uses.take_unused() == []
    table.remove(frontend(81))
    assert WEB in table.uses  # what is still counted for it belongs to it
    assert table.uses.take_unused() == [(WEB, "IPv4")]
    assert WEB not in table.uses
    assert not table.uses.has_service(ServiceName("default", "web"))


def test_a_family_and_a_port_go_by_themselves() -> None:
    table = Table()
    table.put(frontend(80), frontend(80, family="IPv6"), frontend(81, ADMIN))
    table.remove(frontend(80))
    assert table.uses.take_unused() == [(WEB, "IPv4")]
    assert WEB in table.uses
    table.remove(frontend(80, family="IPv6"))
    assert table.uses.take_unused() == [(WEB, "IPv6")]
    assert table.uses.has_service(ServiceName("default", "web"))


def test_a_frontend_that_changes_hands_counts_for_the_new_service_port() -> None:
    table = Table()
    table.put(frontend(80))
    table.put(frontend(80, ADMIN))
    table.put(frontend(80, ADMIN))
    assert table.uses.take_unused() == [(WEB, "IPv4")]
    table.remove(frontend(80, ADMIN))
    assert table.uses.take_unused() == [(ADMIN, "IPv4")]


def test_what_comes_back_in_time_was_never_gone() -> None:
    table = Table()
    table.put(frontend(80))
    table.remove(frontend(80))
    table.put(frontend(80))
    assert table.uses.take_unused() == []
