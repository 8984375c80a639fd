"""The variables that kubelet gives to pods, with local places in them."""

from pyproxy.core.env_file import Environment, environment_of
from pyproxy.core.local_names import Scope
from pyproxy.core.local_service import Claimant
from pyproxy.core.loopback import LocalPort, Placement


def environment(*placements: Placement, scope: Scope | None = None) -> Environment:
    return environment_of({p.claimant: p for p in placements}, scope or Scope())


def at(
    name: str, *ports: LocalPort, namespace: str = "shop", context: str = "", pod: str = ""
) -> Placement:
    address = "127.5.6.7" if namespace == "shop" else "127.5.6.8"
    return Placement(Claimant(context, namespace, name, pod), address, ports or (HTTP,))


HTTP = LocalPort("", "TCP", 80, 8080)


def test_the_variables_are_kubelets_with_local_values() -> None:
    # The names are those of kubelet's own test, pkg/kubelet/envvars/envvars_test.go.
    ports = (LocalPort("u-d-p", "UDP", 8083, 8083), LocalPort("t-c-p", "TCP", 80, 8080))
    found = environment(at("super-duper", *ports))
    assert found.notes == ()
    assert found.text() == (
        "SUPER_DUPER_SERVICE_HOST=127.5.6.7\n"
        "SUPER_DUPER_SERVICE_PORT=8083\n"
        "SUPER_DUPER_SERVICE_PORT_U_D_P=8083\n"
        "SUPER_DUPER_SERVICE_PORT_T_C_P=8080\n"
        "SUPER_DUPER_PORT=udp://127.5.6.7:8083\n"
        "SUPER_DUPER_PORT_8083_UDP=udp://127.5.6.7:8083\n"
        "SUPER_DUPER_PORT_8083_UDP_PROTO=udp\n"
        "SUPER_DUPER_PORT_8083_UDP_PORT=8083\n"
        "SUPER_DUPER_PORT_8083_UDP_ADDR=127.5.6.7\n"
        "SUPER_DUPER_PORT_80_TCP=tcp://127.5.6.7:8080\n"
        "SUPER_DUPER_PORT_80_TCP_PROTO=tcp\n"
        "SUPER_DUPER_PORT_80_TCP_PORT=8080\n"
        "SUPER_DUPER_PORT_80_TCP_ADDR=127.5.6.7\n"
    )


def test_pods_and_services_without_ports_have_none() -> None:
    empty = Placement(Claimant("", "shop", "none"), "127.5.6.7", ())
    assert environment(at("db", pod="db-0"), empty).text() == ""


def test_of_two_services_with_one_name_the_later_has_its_namespace_in_front() -> None:
    scope = Scope(namespaces=("test", "shop"))
    found = environment(at("web"), at("web", namespace="test"), scope=scope)
    assert found.variables["WEB_SERVICE_HOST"] == "127.5.6.8"
    assert found.variables["SHOP_WEB_SERVICE_HOST"] == "127.5.6.7"
    assert found.notes == ("shop/web: its variables are SHOP_WEB_*: WEB_* are test/web's",)
    # Without an order, the names decide; never the order of arrival.
    assert environment(at("web", namespace="test"), at("web")) == environment(
        at("web"), at("web", namespace="test")
    )


def test_who_has_no_name_left_is_told() -> None:
    found = environment(at("web"), at("web", context="b"), at("web", context="c"))
    assert found.notes == (
        "shop/web: its variables are SHOP_WEB_*: WEB_* are shop/web's",
        "shop/web: no variables: WEB and SHOP_WEB are other Services'",
    )


def test_a_link_gives_way_to_a_services_port() -> None:
    found = environment(at("web"), at("web-service"))
    assert found.variables["WEB_SERVICE_PORT"] == "8080"
    assert found.variables["WEB_SERVICE_SERVICE_PORT"] == "8080"
    assert found.notes == ("shop/web-service: WEB_SERVICE_PORT is another Service's variable",)


def test_what_a_shell_does_not_take_as_a_name_is_left_out_and_told() -> None:
    found = environment(at("1st"))
    assert found.variables == {}
    assert found.notes[0] == "shop/1st: 1ST_SERVICE_HOST is no name of a variable"
