"""The commands that ask a running agent, as a user runs them."""

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import socket
import subprocess
import sys
import termios
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.backends import VIP_PORT
from tests.support.control import ROOT, Served, pyproxy, served

LISTS = ("services", "endpoints", "connections")


@pytest.fixture(scope="module", params=[0, 2], ids=["in-process", "two-workers"])
def agent(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """With a few live connections, and an endpoint that refuses."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(served(tmp_path_factory.mktemp("agent"), request.param))
        for _ in range(20):
            stack.enter_context(made.client())
        while made.json("services")["services"][0]["connections"]["opened"] < 20:
            pass  # workers tell their counts now and then
        yield made


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, 2) as made:
        yield made


def test_status_tells_a_healthy_agent_on_one_screen(agent: Served) -> None:
    done = agent.run("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("healthy: pyproxy ")
    assert "1 Services, 1 of 1 addresses and ports listened on" in done.stdout
    assert "20 connections and flows" in done.stdout
    assert re.search(r"\d+ x connect refused  default/web:http", done.stdout)
    assert len(done.stdout.splitlines()) < 25
    assert agent.json("status")["state"] == "healthy"
    assert yaml.safe_load(agent.run("status", "-o", "yaml").stdout)["state"] == "healthy"


@pytest.mark.parametrize("name", LISTS)
def test_every_list_has_every_form(agent: Served, name: str) -> None:
    table, wide = agent.run(name), agent.run(name, "-o", "wide")
    assert (table.returncode, table.stderr) == (0, "")
    head, first, *_ = table.stdout.splitlines()
    assert head.startswith("SERVICE")
    assert first.startswith("default/web")
    assert wide.stdout.splitlines()[0].startswith(head.split()[0])
    assert len(wide.stdout.splitlines()[0]) > len(head)
    as_json = agent.json(name)
    as_yaml = yaml.safe_load(agent.run(name, "-o", "yaml").stdout)
    assert [sorted(row) for row in as_json[name]] == [sorted(row) for row in as_yaml[name]]
    assert "\x1b" not in table.stdout


@pytest.mark.parametrize(
    "words", [["web"], ["default/web"], ["-n", "default"], ["web", "-n", "default"]]
)
def test_lists_are_filtered_by_namespace_and_name(agent: Served, words: list[str]) -> None:
    for name in LISTS:
        assert agent.json(name, *words)[name]


def test_connections_are_those_of_all_workers(agent: Served) -> None:
    answer = agent.json("connections", "--sort", "received")
    assert (len(answer["connections"]), answer["total"], answer["complete"]) == (20, 20, True)
    for row in answer["connections"]:
        assert row["frontend"] == f"{agent.vip}:{VIP_PORT}"
        assert row["endpoint"] == agent.endpoint
        assert row["connected"]
        assert (row["bytes_to_endpoint"], row["bytes_to_client"]) == (5, 5)


def test_endpoints_have_the_sum_of_the_workers_connections(agent: Served) -> None:
    rows = {row["endpoint"]: row for row in agent.json("endpoints")["endpoints"]}
    assert rows[agent.endpoint]["connections"] == 20
    (dead,) = (row for at, row in rows.items() if at != agent.endpoint)
    assert dead["connections"] == 0
    assert dead["used"]
    assert dead["ejected_by"] >= 1
    assert "ejected" in agent.run("endpoints").stdout


@pytest.mark.parametrize("name", LISTS)
def test_what_does_not_exist_ends_with_1_and_near_names(agent: Served, name: str) -> None:
    for words, near in ((["wbe"], "default/web"), (["-n", "defautl"], "default")):
        done = agent.run(name, *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.rstrip().endswith(f"did you mean {near}?")


def test_a_name_must_be_of_the_namespace(agent: Served) -> None:
    done = agent.run("services", "shop/web", "-n", "default")
    assert done.returncode == 2
    assert "shop/web is not in namespace default" in done.stderr


def test_watch_prints_again_until_interrupted(agent: Served) -> None:
    command = [sys.executable, "-m", "pyproxy", "services", "--watch"]
    command += ["--control-socket", str(agent.path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    with process.stdout:
        heads = 0
        for line in process.stdout:
            heads += line.startswith("SERVICE")
            if heads == 2:
                break
        process.terminate()
        process.wait(timeout=30)


def test_explain_asks_the_agent_and_tries(agent: Served) -> None:
    target = f"{agent.vip}:{VIP_PORT}"
    done = agent.run("explain", "default/web", target, "-o", "json")
    by_name, by_address = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 1  # one of the endpoints is dead
    assert by_address["action"] == "forward"
    for explained in (by_name, by_name["frontends"][0], by_address):
        checks = {check["check"]: check for check in explained["checks"]}
        assert checks["Listener"]["ok"]
        assert "1 of 2 cannot be connected from this node" in checks["Dial"]["detail"]
        assert "connect refused" in checks["RecentErrors"]["detail"]
        assert not checks["Ejection"]["ok"]
    text = agent.run("explain", "default/web").stdout
    assert "Connection refused" in text
    assert "did you mean default/web?" in agent.run("explain", "default/wbe").stdout


def test_top_piped_measures_once(agent: Served) -> None:
    done = agent.run("top")
    assert (done.returncode, done.stderr) == (0, "")
    head, row = done.stdout.splitlines()
    assert head.split()[:4] == ["SERVICE", "PORT", "NEW/S", "ACTIVE"]
    assert row.split()[3] == "20"


def in_terminal(agent: Served, *arguments: str, until: str, **environment: str) -> str:
    """What a command writes to a terminal, until it has written this; then it is interrupted."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, b"\x18\x00\x78\x00" + bytes(4))
    command = [sys.executable, "-m", "pyproxy", *arguments, "--control-socket", str(agent.path)]
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "NO_COLOR": "", **environment},
    )
    os.close(theirs)
    text = b""
    with contextlib.suppress(OSError):  # the terminal's other end is closed
        while until.encode() not in text:
            text += os.read(ours, 65536)
    process.terminate()
    process.wait(timeout=30)
    os.close(ours)
    return text.decode(errors="replace")


def test_a_terminal_has_colours_unless_they_are_not_wanted(agent: Served) -> None:
    assert "\x1b[32mhealthy\x1b[0m" in in_terminal(agent, "status", until="traffic")
    assert "\x1b[" not in in_terminal(agent, "status", until="traffic", NO_COLOR="1")


def test_top_is_live_in_a_terminal(agent: Served) -> None:
    assert "\x1b[?1049h" in in_terminal(agent, "top", until="default/web")  # the alternate screen


def test_log_level_reaches_the_agent_and_its_workers(own: Served) -> None:
    assert own.run("log-level", "debug").returncode == 0
    own.running.wait_for("logging from level debug on")
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(own.client())
        own.running.wait_for("DEBUG .*worker . *: connect to|DEBUG .*connect to")
    assert own.run("log-level", "loud").returncode == 2


def test_drain_takes_no_new_clients_and_keeps_those_it_has(own: Served) -> None:
    with own.client() as client:
        done = own.run("drain")
        assert (done.returncode, done.stdout) == (0, "draining: it takes no new clients\n")
        own.running.wait_for("taking no new clients, as asked; 1 connections are live")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((own.vip, VIP_PORT), timeout=30)
        client.sendall(b"still here")
        assert client.recv(100) == b"still here"
        status = own.run("status")
        assert status.returncode == 2
        assert "draining: it takes no new clients" in status.stdout
        with pytest.raises(urllib.error.HTTPError) as answer:
            urllib.request.urlopen(own.running.url("health") + "/healthz")
        assert answer.value.code == 503
        answer.value.close()
    own.running.process.terminate()
    assert own.running.wait() == 0


def test_a_taken_port_degrades(tmp_path: Path) -> None:
    with served(tmp_path, 0) as made, socket.create_server((made.vip, VIP_PORT + 1)):
        manifest = (
            (tmp_path / "web.yaml")
            .read_text()
            .replace(f"port: {VIP_PORT}", f"port: {VIP_PORT + 1}")
        )
        (tmp_path / "web.yaml").write_text(manifest)
        made.running.wait_for("cannot listen on")
        done = made.run("status")
        assert done.returncode == 1
        assert done.stdout.startswith("degraded")
        assert made.run("status", "--serving").returncode == 0
        assert "1 addresses and ports cannot be listened on" in done.stdout
        assert "another process listens there" in made.run("explain", "default/web").stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a PID namespace")
def test_a_startup_probe_asks_the_agent_of_its_own_container_only(own: Served) -> None:
    status = [sys.executable, "-m", "pyproxy", "status", "--serving"]
    status += ["--control-socket", str(own.path)]
    elsewhere = ["unshare", "--pid", "--fork", *status]
    assert subprocess.run(status, cwd=ROOT, capture_output=True, check=False).returncode == 0
    done = subprocess.run(elsewhere, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is of another container" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["services"],
        ["endpoints"],
        ["connections"],
        ["top"],
        ["drain"],
        ["log-level", "info"],
    ],
)
def test_without_an_agent_every_command_ends_with_2_and_says_what_to_do(
    tmp_path: Path, words: list[str]
) -> None:
    done = pyproxy(*words, "--control-socket", str(tmp_path / "none.sock"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no such socket; is pyproxy run running" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_without_permission_it_says_whom_to_ask_as(own: Served) -> None:
    # Asked once before, everything is imported: somebody else may not read the files.
    code = (
        "import os, sys\nfrom pyproxy.cli import run\n"
        "run(['status', '--control-socket', sys.argv[1]])\n"
        "os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "sys.exit(run(['status', '--control-socket', sys.argv[1]]))\n"
    )
    command = [sys.executable, "-c", code, str(own.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert "permission denied; ask as the user that the agent runs as" in done.stderr


def test_the_shells_understand_their_completion() -> None:
    for shell in ("bash", "zsh", "fish"):
        script = pyproxy("completion", shell)
        assert script.returncode == 0
        assert "connections" in script.stdout
        if (program := shutil.which(shell)) is not None:
            subprocess.run([program, "-n"], input=script.stdout, text=True, check=True)


def test_bash_completes_commands_and_options() -> None:
    def completed(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in words)
        script = pyproxy("completion", "bash").stdout
        script += f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _pyproxy\n"
        script += 'printf "%s\\n" "${COMPREPLY[@]}"\n'
        done = subprocess.run(
            ["bash"], input=script, capture_output=True, text=True, check=True, cwd=ROOT
        )
        return done.stdout.split()

    assert completed("pyproxy", "conn") == ["connections"]
    assert completed("pyproxy", "services", "--wa") == ["--watch"]
    assert "wide" in completed("pyproxy", "services", "-o", "wi")
