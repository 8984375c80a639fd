"""The control socket: its answers, who may ask, and that nothing said to it disturbs the proxy."""

import asyncio
import http.client
import json
import os
import re
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyproxy.cli import control_client
from pyproxy.ops.control_places import places
from tests.support import agents
from tests.support.backends import VIP_PORT, new_address, receive, udp_socket
from tests.support.builders import make_port, make_service, make_slice
from tests.support.control import ROOT, Served, pyproxy, served


@pytest.fixture(params=[0, 2], ids=["in-process", "two-workers"])
def agent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, request.param) as made:
        yield made


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, 0) as made:
        yield made


def shape(value: Any) -> Any:
    """The fields of an answer, those of rows by their first."""
    if isinstance(value, dict):
        by_reason = ("closed", "connect_attempts")  # their keys are what has happened
        return {key: ... if key in by_reason else shape(value[key]) for key in value}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return ...


def documented() -> dict[str, Any]:
    """The answers of docs/control.md, by their headings."""
    text = (ROOT / "docs" / "control.md").read_text(encoding="utf-8")
    found = re.findall(r"^### (\S+ /\S+)\n.*?```json\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    return {heading: json.loads(body) for heading, body in found}


def test_answers_have_the_documented_shape(agent: Served) -> None:
    asked = {
        "GET /status": None,
        "GET /services": None,
        "GET /endpoints": None,
        "GET /connections": None,
        "POST /explain": f'{{"targets": ["{agent.vip}:8080"]}}',
        "POST /log-level": '{"level": "info"}',
        "POST /hand-over": json.dumps({"role": role_of(agent), "leave": False}),
        "POST /drain": None,
    }
    wanted = documented()
    assert wanted.keys() == asked.keys()
    with agent.client():
        for heading, body in asked.items():
            method, target = heading.split()
            status, answer = agent.ask(method, target, body)
            assert status == 200
            if heading == "GET /status":
                answer = filled(answer, wanted[heading])
            assert shape(answer) == shape(wanted[heading])


def role_of(agent: Served) -> dict[str, str]:
    """What a newer agent in its place would say that it is."""
    node = agent.json("status")["agent"]["node"]
    return {"node": node, "proxy_name": "", "source": "manifests", "steering": "none"}


def test_an_agent_leaves_for_none_but_its_successor(alone: Served) -> None:
    for field, other in (("node", "other"), ("proxy_name", "x"), ("steering", "nft")):
        role = {**role_of(alone), field: other}
        body = json.dumps({"role": role, "leave": True})
        status, answer = alone.ask("POST", "/hand-over", body)
        assert status == 409
        assert "does not leave" in answer["error"]
    assert alone.json("status")["state"] == "healthy"


def filled(answer: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    """With the lists that were empty this time, and keys that depend on the set-up."""
    lists = {key: answer[key] or example[key] for key in ("workers", "unbound", "errors")}
    return {**answer, **lists, "reasons": example["reasons"]}


def test_only_the_owner_may_ask_and_the_socket_goes_with_the_agent(alone: Served) -> None:
    assert stat.S_IMODE(alone.path.stat().st_mode) == 0o600
    alone.running.process.terminate()
    assert alone.running.wait() == 0
    assert not alone.path.exists()


def test_the_socket_of_a_dead_agent_is_replaced(alone: Served, tmp_path: Path) -> None:
    alone.running.process.kill()
    alone.running.wait()
    assert alone.path.exists()
    done = alone.run("status")
    assert done.returncode == 2
    assert "nobody listens there any more" in done.stderr
    arguments = ["--manifests", str(tmp_path / "web.yaml"), "--workers", "0"]
    with agents.process(*arguments, "--control-socket", str(alone.path)) as second:
        second.wait_for("listening on")
        assert alone.run("status").returncode == 0


def test_the_socket_of_a_live_agent_is_left_to_it(alone: Served, tmp_path: Path) -> None:
    pid = alone.json("status")["agent"]["pid"]
    arguments = ["--manifests", str(tmp_path / "web.yaml"), "--workers", "0"]
    with agents.process(*arguments, "--control-socket", str(alone.path)) as second:
        second.wait_for("another agent answers on .*; trying again")
        second.process.terminate()
        second.wait()
    assert alone.json("status")["agent"]["pid"] == pid


async def test_where_the_first_place_is_forbidden_the_second_is_taken(tmp_path: Path) -> None:
    # Nobody, not even root, makes files in /sys.
    asked = agents.settings(
        tmp_path, control_sockets=("/sys/x.sock", str(tmp_path / "second.sock"))
    )
    async with agents.running(asked, ports=3) as agent:
        assert agent.urls["control"] == str(tmp_path / "second.sock")


def test_the_places_are_the_systems_and_then_the_users() -> None:
    assert places({}) == ("/run/pyproxy/pyproxy.sock",)
    both = ("/run/pyproxy/pyproxy.sock", "/run/user/1000/pyproxy.sock")
    assert places({"XDG_RUNTIME_DIR": "/run/user/1000"}) == both


@pytest.mark.parametrize("workers", [0, 2])
async def test_udp_flows_are_listed_beside_connections(tmp_path: Path, workers: int) -> None:
    vip = new_address()
    with udp_socket(new_address()) as endpoint, udp_socket("127.0.0.1") as client:
        at = endpoint.getsockname()
        port = {"name": "dns", "port": at[1], "protocol": "UDP"}
        service = make_service("dns", cluster_ip=vip, ports=[make_port(VIP_PORT, "dns", "UDP")])
        agents.write(tmp_path / "dns.yaml", service, make_slice(at[0], service="dns", ports=[port]))
        path = str(tmp_path / "x.sock")
        asked = agents.settings(tmp_path, workers=workers, control_sockets=(path,))
        async with agents.running(asked, ports=3):
            client.sendto(b"question", (vip, VIP_PORT))
            await receive(endpoint)
            answer = await asyncio.to_thread(control_client.ask, path, "GET", "/connections")
    (flow,) = answer["connections"]
    assert flow["protocol"] == "UDP"
    assert flow["endpoint"] == f"{at[0]}:{at[1]}"
    assert not flow["connected"]
    assert flow["idle_seconds"] >= 0
    assert flow["age_seconds"] >= flow["idle_seconds"]
    assert (flow["bytes_to_endpoint"], flow["bytes_to_client"]) == (8, 0)


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("precious")
    with agents.process("--manifests", str(tmp_path), "--control-socket", str(path)) as running:
        running.wait_for("notes.txt is no socket, and left alone")
    assert path.read_text() == "precious"


def test_without_a_directory_it_says_so_and_serves(tmp_path: Path) -> None:
    path = str(tmp_path / "none" / "deeper" / "x.sock")
    with agents.process("--manifests", str(tmp_path), "--control-socket", path) as running:
        running.wait_for("no control socket, and so no pyproxy status: .*No such file")
        running.wait_for("listening on")


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "says"),
    [
        ("GET", "/nothing", None, 404, "Not Found"),
        ("POST", "/status", "{}", 405, "Method Not Allowed"),
        ("GET", "/drain", None, 405, "Method Not Allowed"),
        ("GET", "/services?name=web", None, 400, "needs its namespace"),
        ("GET", "/services?colour=red", None, 400, "unknown parameters: colour"),
        ("GET", "/services?namespace=default&name=wbe", None, 404, "no Service default/wbe"),
        ("GET", "/endpoints?namespace=defautl", None, 404, "no Service is in namespace"),
        ("GET", "/connections?limit=many", None, 400, "'many' is not a number"),
        ("POST", "/explain", "", 400, "the request's body"),
        ("POST", "/explain", '{"targets": "x"}', 400, "the request's body"),
        ("POST", "/explain", '{"targets": []}', 400, "the request's body"),
        ("POST", "/explain", '{"targets": ["nonsense"]}', 400, "target 'nonsense'"),
        ("POST", "/explain", '{"targets": ["a/b"], "x": 1}', 400, "the request's body"),
        ("POST", "/explain", "[" * 100_000, 400, "the request's body"),
        ("POST", "/explain", "x" * 300_000, 413, "Too Large"),
        ("POST", "/log-level", '{"level": "loud"}', 400, "the request's body"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_reason(
    shared: Served, method: str, target: str, body: str | None, status: int, says: str
) -> None:
    found, answer = shared.ask(method, target, body)
    assert found == status
    assert answer["version"] == 1
    assert says in answer["error"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("shared"), 2) as made:
        yield made


def test_garbage_is_answered_or_hung_up_on_and_the_proxy_forwards(shared: Served) -> None:
    with shared.client() as client:
        for garbage in (b"\0" * 1000, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", os.urandom(5000)):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(30)
                sock.connect(str(shared.path))
                sock.sendall(garbage)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
        client.sendall(b"still here")
        assert client.recv(100) == b"still here"
    assert shared.run("status").returncode == 0
    assert not any("Traceback" in line for line in shared.running.log)


def test_a_thousand_requests_are_answered_and_the_proxy_forwards(shared: Served) -> None:
    statuses: list[int] = []

    def ask() -> None:
        for n in range(100):
            target = ("/status", "/services", "/endpoints", "/connections")[n % 4]
            statuses.append(shared.ask("GET", target)[0])

    threads = [threading.Thread(target=ask) for _ in range(10)]
    with shared.client() as client:
        for thread in threads:
            thread.start()
        for _ in range(20):
            client.sendall(b"meanwhile")
            assert client.recv(100) == b"meanwhile"
        for thread in threads:
            thread.join(timeout=60)
    assert statuses == [200] * 1000


def test_no_tcp_port_changes_anything(shared: Served) -> None:
    for name in ("metrics", "health"):
        host, _, port = shared.running.url(name).removeprefix("http://").rpartition(":")
        for path in ("/drain", "/log-level", "/explain"):
            connection = http.client.HTTPConnection(host, int(port), timeout=30)
            connection.request("POST", path, "{}")
            assert connection.getresponse().status in {404, 405}
            connection.close()


def test_a_command_of_another_version_says_so(tmp_path: Path) -> None:
    path = tmp_path / "other.sock"
    body = b'{"version": 7, "pyproxy": "9.9.9"}'
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert "pyproxy 9.9.9 and answers in form 7" in _asked_of(path, head + body)


def test_something_else_on_the_socket_is_no_agent(tmp_path: Path) -> None:
    assert "no pyproxy agent" in _asked_of(tmp_path / "x.sock", b"HTTP/1.1 200 OK\r\n\r\nhello")
    assert "went away" in _asked_of(tmp_path / "y.sock", b"SSH-2.0-OpenSSH\r\n")


def _asked_of(path: Path, answer: bytes) -> str:
    """What `pyproxy status` says of somebody who gives this answer."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        done = pyproxy("status", "--control-socket", str(path))
        thread.join(timeout=30)
    assert done.returncode == 2
    assert done.stdout == ""
    return done.stderr
