"""The status page's HTTP side: who may ask, what is answered; and nobody disturbs the proxy."""

import asyncio
import contextlib
import http.client
import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from pyproxy.config import HostPort
from pyproxy.ops.viewers import MOST_VIEWERS, Viewers, event
from pyproxy.ops.web import serve_application
from tests.support import agents
from tests.support.backends import VIP_PORT, new_address
from tests.support.control import Served, served

ANYWHERE = ("--ui-bind-address", "127.0.0.1:0")
EVENTS = b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Page:
    """An agent whose page is asked, and its Service default/web that echoes at vip."""

    def __init__(self, served: Served) -> None:
        self.url = served.running.url("page")
        self.vip = served.vip
        self.at = ("127.0.0.1", int(self.url.rpartition(":")[2]))

    def ask(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """An answer: its status, headers and body."""
        connection = http.client.HTTPConnection(*self.at, timeout=30)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=named)
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        """The body of an answer that is well."""
        status, _, body = self.ask(path)
        assert status == 200
        return json.loads(body)

    def is_serving(self) -> bool:
        """Whether clients of the Service are still forwarded."""
        with socket.create_connection((self.vip, VIP_PORT), timeout=30) as client:
            client.sendall(b"hello")
            return client.recv(100) == b"hello"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    directory = tmp_path_factory.mktemp("page")
    with served(directory, 0, *ANYWHERE, also="uiHosts: [page.example.net]\n") as made:
        yield Page(made)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:9", "page.example.net:8443"]
)
def test_names_of_loopback_and_configured_ones_are_served(page: Page, host: str) -> None:
    status, _, body = page.ask("/", Host=host)
    assert status == 200
    assert b"<title>pyproxy</title>" in body


@pytest.mark.parametrize("path", ["/", "/main.js", "/api/v1/status", "/api/v1/events", "/nothing"])
@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:80", "10.1.2.3", ""])
def test_other_names_are_refused_whatever_is_asked_for(page: Page, path: str, host: str) -> None:
    status, _, body = page.ask(path, Host=host)
    assert status == 421
    assert "uiHosts" in json.loads(body)["error"]


@pytest.mark.parametrize(
    ("path", "headers", "wanted"),
    [
        ("/api/v1/status", {"Sec_Fetch_Site": "cross-site"}, 403),
        ("/api/v1/events", {"Sec_Fetch_Site": "same-site"}, 403),
        ("/api/v1/status", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 403),
        ("/", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 200),
        ("/api/v1/status", {"Sec_Fetch_Site": "same-origin"}, 200),
        ("/api/v1/status", {"Origin": "http://evil.example"}, 200),
    ],
)
def test_other_sites_cannot_read_or_cause_anything(
    page: Page, path: str, headers: dict[str, str], wanted: int
) -> None:
    status, answered, _ = page.ask(path, **headers)
    assert status == wanted
    assert not [name for name in answered if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("path", ["/", "/page.css", "/api/v1/status", "/nothing"])
def test_every_answer_keeps_the_browser_from_loading_anything_from_elsewhere(
    page: Page, path: str
) -> None:
    _, headers, _ = page.ask(path)
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD"])
def test_nothing_but_get_is_taken(page: Page, method: str) -> None:
    for path in ("/", "/api/v1/status", "/api/v1/services/default/web/explain"):
        assert page.ask(path, method)[0] == 405


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/../pyproject.toml", 404),
        ("/%2e%2e/ui.py", 404),
        ("/index.html", 404),
        ("/api/v1/services/default", 404),
        ("/api/v1/services/default/wep", 404),
        ("/api/v1/services/default/wep/explain", 404),
        ("/api/v1/services/%00/%ff", 404),
        ("/" + "x" * 9000, 400),
    ],
)
def test_what_is_not_there_is_refused_in_words(page: Page, path: str, wanted: int) -> None:
    status, _, body = page.ask(path)
    assert status == wanted
    assert body


def test_a_service_that_does_not_exist_is_answered_with_near_names(page: Page) -> None:
    _, _, body = page.ask("/api/v1/services/default/wep")
    assert json.loads(body)["near"] == ["default/web"]


def test_a_service_is_told_with_its_front_ends_history_and_explanation(page: Page) -> None:
    told = page.json("/api/v1/services/default/web")
    assert told["ports"][0]["frontends"][0]["address"] == page.vip
    assert set(told["history"]) >= {"connections", "to_client", "p95_s"}
    explained = page.json("/api/v1/services/default/web/explain")
    assert (explained["action"], explained["reason"]) == ("forward", "Forwarded")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -5\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        random.Random(1).randbytes(5000) + b"\r\n\r\n",
    ],
)
def test_garbage_is_refused_and_the_proxy_goes_on(page: Page, garbage: bytes) -> None:
    with socket.create_connection(page.at, timeout=30) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(garbage)
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            answer = client.recv(65536)
            assert not answer or answer.split()[1][:1] == b"4"
    assert page.ask("/")[0] == 200
    assert page.is_serving()


def test_of_a_thousand_viewers_a_hundred_are_served_and_the_rest_told_why(page: Page) -> None:
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(1000):
            client = stack.enter_context(socket.create_connection(page.at, timeout=30))
            client.sendall(EVENTS)
            clients.append(client)
        answers = [client.recv(65536) for client in clients]
        statuses = [answer.split()[1] for answer in answers]
        assert statuses.count(b"200") == MOST_VIEWERS
        assert statuses.count(b"503") == 1000 - MOST_VIEWERS
        refused = answers[statuses.index(b"503")]
        assert b"100 viewers" in refused
        viewers = page.json("/api/v1/status")["viewers"]
        assert viewers == {"now": MOST_VIEWERS, "most": MOST_VIEWERS}
        assert page.is_serving()
    while page.json("/api/v1/status")["viewers"]["now"]:
        pass  # their places are free again once the agent sees that they are gone
    with socket.create_connection(page.at, timeout=30) as client:
        client.sendall(EVENTS)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_viewer_is_told_everything_and_then_what_is_new(page: Page) -> None:
    with socket.create_connection(page.at, timeout=30) as client, client.makefile("rb") as stream:
        client.sendall(EVENTS)
        first = [message for _, message in zip(range(4), messages(stream), strict=False)]
        assert first[0]["node"]
        rows = [row for message in first for row in message.get("services", [])]
        assert [(row["namespace"], row["name"]) for row in rows] == [("default", "web")]
        states = [row[-2:] for message in first for row in message.get("doing", [])]
        assert states[0][0] in {"healthy", "degraded"}


def messages(stream: Any) -> Iterator[dict[str, Any]]:
    for line in stream:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


async def test_a_viewer_that_does_not_read_is_cut_off_and_costs_no_more_than_its_queue() -> None:
    viewers = Viewers(waiting=5)

    async def begin() -> Any:
        yield event("hello", b"{}")

    async def follow(request: web.Request) -> web.StreamResponse:
        return await viewers.follow(request, begin())

    application = web.Application()
    application.router.add_get("/", follow)
    urls: asyncio.Queue[str] = asyncio.Queue()
    served = serve_application(
        "page", "127.0.0.1", 0, application, on_bound=urls.put_nowait, retry_s=1
    )
    async with asyncio.TaskGroup() as group:
        server = group.create_task(served)
        port = int((await urls.get()).rpartition(":")[2])
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        await asyncio.get_running_loop().sock_connect(slow, ("127.0.0.1", port))
        await asyncio.get_running_loop().sock_sendall(slow, EVENTS.replace(b"/api/v1/events", b"/"))
        async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as well:
            while len(viewers) < 2:
                await asyncio.sleep(0.005)
            message = event("tick", b'"' + b"x" * 100_000 + b'"')
            while len(viewers) == 2:
                viewers.send(message)
                await well.content.readuntil(b"\n\n")
            viewers.send(event("tick", b"still"))
            while b"still" not in await well.content.readuntil(b"\n\n"):
                pass
        slow.close()
        server.cancel()


async def test_a_port_that_is_taken_is_tried_again(tmp_path: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    at = HostPort(*taken.getsockname())
    manifest = agents.write(tmp_path / "none.yaml")
    async with agents.running(
        agents.settings(manifest, page=at, http_retry_s=0.02), ports=2
    ) as agent:
        assert "page" not in agent.urls
        taken.close()
        while "page" not in agent.urls:
            await asyncio.sleep(0.005)
        async with ClientSession() as session, session.get(agent.urls["page"]) as answer:
            assert answer.status == 200


async def test_without_an_address_there_is_no_page(tmp_path: Path) -> None:
    manifest = agents.write(tmp_path / "none.yaml")
    async with agents.running(agents.settings(manifest, page=None)) as agent:
        assert sorted(agent.urls) == ["health", "metrics"]


def test_the_address_that_was_connected_to_is_a_name_that_nobody_can_forge(tmp_path: Path) -> None:
    manifest = agents.write(tmp_path / "none.yaml")
    arguments = ("--manifests", str(manifest), "--workers", "0")
    with agents.process(*arguments, "--ui-bind-address", "0.0.0.0:0") as running:
        port = int(running.url("page").rpartition(":")[2])
        address = new_address()
        asked = http.client.HTTPConnection(address, port, timeout=30)
        for host, wanted in ((address, 200), (f"{address}:99", 200), ("192.0.2.77", 421)):
            asked.request("GET", "/", headers={"Host": host})
            answer = asked.getresponse()
            answer.read()
            assert answer.status == wanted
        asked.close()
