"""The status page in a real Chromium: what a person sees of it, and can do with it."""

import contextlib
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from pyproxy.ops.viewers import MOST_VIEWERS
from tests.support import agents, page_cluster
from tests.support.backends import VIP_PORT, new_address
from tests.support.browser import CHROMIUM, DRIVER, Browser, browser
from tests.support.builders import make_service
from tests.support.page_cluster import Made

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver (Debian's packages)"
)

NAMES = "return [...document.querySelectorAll('#services tr[data-id] b')].map((b) => b.innerText)"


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture
def fresh(window: Browser) -> Browser:
    """The window as a newcomer has it."""
    window.driver.get("about:blank")
    window.prefer(prefers_color_scheme="light", prefers_reduced_motion="no-preference")
    window.resize(1440, 900)
    window.console()
    window.requests()
    return window


@contextlib.contextmanager
def serving(directory: Path, *more: str, port: int = 0) -> Iterator[agents.Process]:
    """An agent with a page. Other services than those of the directory: none."""
    at = f"127.0.0.1:{port}"
    arguments = ["--manifests", str(directory), "--workers", "0", "--ui-bind-address", at, *more]
    with agents.process(*arguments) as running:
        running.wait_for("listening on [1-9]")
        yield running


def put(directory: Path, services: list[Made]) -> Path:
    """Write their manifests: as JSON, which is YAML too, and ten times faster to write."""
    documents = [json.dumps(document) for made in services for document in made.documents()]
    draft = directory / "draft"
    draft.write_text("\n---\n".join(documents))
    return draft.replace(directory / "shop.yaml")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page with 60 Services: a dozen under load, some in trouble, two not proxied."""
    services = page_cluster.shop(60)
    directory = tmp_path_factory.mktemp("shop")
    put(directory, services)
    with serving(directory) as running, page_cluster.load(services):
        yield running.url("page")


def names(window: Browser) -> list[str]:
    return list(window.run(NAMES))


def hash_of(window: Browser) -> str:
    return str(window.run("return location.hash"))


def test_it_loads_without_a_complaint_and_asks_nobody_else(fresh: Browser, shop: str) -> None:
    fresh.open(shop)
    fresh.wait_for(lambda: fresh.text("#agent") == "healthy")
    fresh.wait_for(lambda: fresh.all(".flow .drops"))
    fresh.run("location.hash = '#/payments/checkout'")
    fresh.wait_for(lambda: "Tried from here" in fresh.text("#detail"))
    assert fresh.console() == []
    asked = fresh.requests()
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((f"{shop}/", "about:"))] == []


def test_services_in_trouble_or_left_alone_say_so_in_words(fresh: Browser, shop: str) -> None:
    fresh.open(shop)
    wanted = {
        "payments/stock": "failing",
        "media/mail": "failing",
        "platform/ledger": "not proxied",
        "shop/prices": "degraded",
    }
    for key, state in wanted.items():
        fresh.run("pyproxy.table.search = arguments[0]; pyproxy.table.update()", key)
        marks = "#services tr[data-id] .mark .spoken"
        assert fresh.run("return document.querySelector(arguments[0]).textContent", marks) == state


def test_a_service_that_is_made_while_it_is_open_appears_and_goes_again(
    fresh: Browser, tmp_path: Path
) -> None:
    services = page_cluster.shop(4)
    put(tmp_path, services[:3])
    with serving(tmp_path) as running:
        fresh.open(running.url("page"))
        fresh.wait_for(lambda: sorted(names(fresh)) == ["cart", "catalog", "checkout"])
        put(tmp_path, services)
        fresh.wait_for(lambda: "search" in names(fresh))
        put(tmp_path, services[:1])
        fresh.wait_for(lambda: names(fresh) == ["cart"])


def test_it_says_since_when_the_agent_is_gone_and_shows_the_new_one(
    fresh: Browser, tmp_path: Path
) -> None:
    services = page_cluster.shop(7)
    put(tmp_path, services[:5])
    with serving(tmp_path) as running:
        url = running.url("page")
        fresh.open(url)
        fresh.run("location.hash = '#/shop/cart'")
        fresh.one("#detail:not([hidden])")
        running.process.send_signal(signal.SIGKILL)
        fresh.wait_for(lambda: "not reachable since" in fresh.text("#banner"))
        assert fresh.all("body.lost")
    put(tmp_path, services)
    with serving(tmp_path, port=int(url.rpartition(":")[2])):
        fresh.wait_for(lambda: not fresh.all("body.lost") and fresh.text("#banner") == "")
        fresh.wait_for(lambda: len(names(fresh)) == 7)
        assert fresh.text("#detail h2") == "cart"


def test_without_services_it_says_what_to_do(fresh: Browser, tmp_path: Path) -> None:
    agents.write(tmp_path / "none.yaml")
    arguments = ("--manifests", str(tmp_path), "--workers", "0")
    with agents.process(*arguments, "--ui-bind-address", "127.0.0.1:0") as running:
        fresh.open(running.url("page"))
        fresh.wait_for(lambda: "No Services yet" in fresh.text("main"))
        put(tmp_path, page_cluster.shop(1))
        fresh.wait_for(lambda: names(fresh) == ["cart"])
        assert "No Services yet" not in fresh.text("main")


def test_it_is_searched_and_opened_and_left_by_keys(fresh: Browser, shop: str) -> None:
    fresh.open(shop)
    fresh.keys("/")
    fresh.keys("checkout-1")
    fresh.wait_for(lambda: names(fresh) == ["checkout-1"])
    fresh.keys(Keys.ENTER)
    fresh.wait_for(lambda: fresh.text("#detail h2") == "checkout-1")
    assert hash_of(fresh) == "#/payments/checkout-1"
    fresh.keys(Keys.ESCAPE)
    fresh.wait_for(lambda: not fresh.all("#detail:not([hidden])"))
    fresh.keys(Keys.ESCAPE)
    fresh.wait_for(lambda: len(names(fresh)) > 10)
    fresh.run("document.querySelector('th[data-column=name] button').click()")
    fresh.keys(Keys.HOME)
    fresh.keys(Keys.ARROW_DOWN, "j", "k")
    current = fresh.one("#services tr[aria-selected=true]")
    assert current.get_attribute("aria-rowindex") == "3"
    active = fresh.run("return document.querySelector('#services').ariaActiveDescendantElement?.id")
    assert active == current.get_attribute("id")
    fresh.keys(Keys.ENTER)
    first = fresh.one("#detail:not([hidden])").get_attribute("data-service")
    fresh.keys("j")
    fresh.wait_for(lambda: fresh.one("#detail").get_attribute("data-service") != first)


def test_what_nobody_has_is_said_not_to_be_found(fresh: Browser, shop: str) -> None:
    fresh.open(shop)
    fresh.keys("/")
    fresh.keys("no such thing")
    fresh.wait_for(lambda: "No Service matches" in fresh.text("#empty"))
    fresh.one("#empty button").click()
    fresh.wait_for(lambda: len(names(fresh)) > 10)


def test_a_click_on_a_heading_sorts_and_another_turns(fresh: Browser, shop: str) -> None:
    fresh.open(shop)
    keys = "return pyproxy.table.shown.map((service) => service.key)"
    head = fresh.one("th[data-column=name]")
    head.find_element("tag name", "button").click()
    assert fresh.run(keys) == sorted(fresh.run(keys))
    assert head.get_attribute("aria-sort") == "ascending"
    head.find_element("tag name", "button").click()
    assert fresh.run(keys) == sorted(fresh.run(keys), reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    fresh.one("th[data-column=state] button").click()
    assert fresh.run("return pyproxy.table.shown[0].state") == "failing"


def test_the_picture_shows_what_flows_and_what_is_left_out(fresh: Browser, shop: str) -> None:
    fresh.open(shop)
    fresh.wait_for(lambda: fresh.all(".endpoint.ejected"))
    widths = """
        const flows = [...document.querySelectorAll('.flow:not(.quiet):not(.stopped) .wide')];
        return flows.map((flow) => Number(flow.getAttribute('stroke-width')))"""
    fresh.wait_for(lambda: len({round(width) for width in fresh.run(widths)}) > 2)
    fresh.run("document.querySelector('.node.service').focus()")
    fresh.keys(Keys.ENTER)
    opened = fresh.one("#detail:not([hidden])").get_attribute("data-service")
    assert opened
    assert opened in str(fresh.one(".node.service.current").get_attribute("aria-label"))


def test_a_service_is_told_in_full(fresh: Browser, shop: str) -> None:
    fresh.open(f"{shop}/#/payments/checkout")
    detail = "#detail"
    for text in (
        "New connections are forwarded to 3 endpoints",
        "Connection refused",
        "endpoint refused the connection",
        ":9080",
        "listening",
        "worker-1",
    ):
        fresh.wait_for(lambda text=text: text in fresh.text(detail))  # type: ignore[misc]
    fresh.wait_for(lambda: len(fresh.all(".chart .line[d^=M]")) >= 4)
    fresh.wait_for(lambda: "left out" in fresh.text(detail))


def test_a_service_that_is_not_proxied_says_why(fresh: Browser, shop: str) -> None:
    fresh.open(f"{shop}/#/platform/ledger")
    fresh.wait_for(lambda: "It is of type ExternalName" in fresh.text("#detail"))
    assert "ledger.example.net" in fresh.text("#detail")
    assert "Last 15 minutes" not in fresh.text("#detail")


def test_names_from_the_cluster_are_never_markup(fresh: Browser, tmp_path: Path) -> None:
    evil = "<img src=/evil onerror=document.title='taken'>"
    documents = agents.web(new_address(), VIP_PORT, ("127.99.0.1", 1))
    for endpoint_slice in documents[1:]:
        for endpoint in endpoint_slice["endpoints"]:
            endpoint["targetRef"] = {"kind": "Pod", "name": evil}
    documents.append(make_service(evil, type="ExternalName", externalName=evil, cluster_ip=""))
    agents.write(tmp_path / "evil.yaml", *documents)
    with serving(tmp_path) as running:
        fresh.open(f"{running.url('page')}/#/default/web")
        fresh.wait_for(lambda: evil in fresh.text("#detail"))
        fresh.keys(Keys.ESCAPE)
        fresh.wait_for(lambda: evil in names(fresh))
        fresh.run("pyproxy.table.chosen(pyproxy.model.byKey.get('default/' + arguments[0]))", evil)
        fresh.wait_for(lambda: fresh.text("#detail h2") == evil)
        assert fresh.all("main img") == []
        assert fresh.run("return document.title").startswith("pyproxy")


def test_dark_and_light_follow_the_system_until_somebody_chooses(fresh: Browser, shop: str) -> None:
    fresh.open(shop)
    fresh.run("localStorage.clear()")
    fresh.open(shop)

    def brightness() -> int:
        colour = fresh.run(
            "return getComputedStyle(document.querySelector('.bar')).backgroundColor"
        )
        return sum(map(int, colour.strip("rgb()").split(",")))

    light = brightness()
    fresh.prefer(prefers_color_scheme="dark")
    assert brightness() < 200 < 600 < light
    fresh.one("#theme").click()
    assert brightness() == light
    fresh.driver.refresh()
    fresh.one("body.ready")
    assert brightness() == light
    fresh.keys("t")
    assert brightness() < 200
    fresh.run("localStorage.clear()")


def test_nothing_moves_for_those_who_ask_for_that(fresh: Browser, shop: str) -> None:
    fresh.open(shop)
    fresh.wait_for(lambda: fresh.all(".flow:not(.quiet):not(.stopped) .drops"))
    running = (
        """return document.getAnimations().filter((one) => one.animationName === 'flow').length"""
    )
    fresh.wait_for(lambda: fresh.run(running) > 0)
    fresh.prefer(prefers_reduced_motion="reduce")
    fresh.wait_for(lambda: fresh.run(running) == 0)


def test_five_thousand_services_stay_usable(fresh: Browser, tmp_path: Path) -> None:
    services = page_cluster.shop(5000)
    put(tmp_path, services)
    with serving(tmp_path) as running:
        running.wait_for("listening on 49..")
        fresh.open(running.url("page"))
        fresh.wait_for(lambda: "5,000" in fresh.text("#filters"))
        rows = "return document.querySelectorAll('#services tr').length"
        assert fresh.run(rows) < 70
        fresh.run("document.querySelector('th[data-column=name] button').click()")
        fresh.keys(Keys.END)
        last = max(f"{made.namespace}/{made.name}" for made in services)
        fresh.wait_for(lambda: last.endswith("/" + names(fresh)[-1]))
        assert fresh.run(rows) < 70
        fresh.keys("/")
        fresh.keys("orders-41")
        wanted = ["orders-41", *(f"orders-41{n}" for n in range(10))]
        fresh.wait_for(lambda: sorted(names(fresh)) == sorted(wanted)[: len(names(fresh))])
        fresh.keys(Keys.ENTER)
        fresh.wait_for(lambda: fresh.text("#detail h2").startswith("orders-41"))
        elements = "return document.querySelectorAll('*').length"
        assert fresh.run(elements) < 3000


def test_one_viewer_too_many_is_told_so(fresh: Browser, tmp_path: Path) -> None:
    put(tmp_path, page_cluster.shop(2))
    with serving(tmp_path) as running, contextlib.ExitStack() as others:
        url = running.url("page")
        for _ in range(MOST_VIEWERS):
            at = ("127.0.0.1", int(url.rpartition(":")[2]))
            client = others.enter_context(socket.create_connection(at, timeout=30))
            client.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        fresh.driver.get(url)
        fresh.wait_for(lambda: f"{MOST_VIEWERS} viewers" in fresh.text("#banner"))
        others.close()
        fresh.wait_for(lambda: sorted(names(fresh)) == ["cart", "checkout"])


@pytest.mark.parametrize("size", [(1440, 900), (1024, 700), (390, 844)])
def test_nothing_sticks_out_of_the_window(fresh: Browser, shop: str, size: tuple[int, int]) -> None:
    fresh.resize(*size)
    fresh.open(shop)
    fresh.wait_for(lambda: fresh.all(".flow"))
    too_wide = """
        const sticksOut = (one) => one.getBoundingClientRect().right > innerWidth + 1;
        return [...document.querySelectorAll('header *, main *')].filter(sticksOut).length"""
    for path in ("", "#/payments/checkout", "#/payments/stock"):
        fresh.run("location.hash = arguments[0]", path)
        if path:
            fresh.one("#detail .checks li")
        assert fresh.run(too_wide) == 0
        assert fresh.run("return document.documentElement.scrollHeight <= innerHeight")
