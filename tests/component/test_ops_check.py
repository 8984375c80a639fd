"""What `pyproxy check` finds, on machines and API servers of every kind."""

import json
import resource
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from pyproxy.errors import ApiError, ConfigError
from pyproxy.ops.check import (
    PERMISSIONS,
    Finding,
    Steer,
    ThisMachine,
    api_findings,
    can_run,
    no_credentials,
    node_findings,
)

OLDEST = (1, 0, 6)
MARK = 0x100000
ALL = (1 << 10) | (1 << 12)


class FakeMachine:
    """A machine that can run pyproxy, unless it is changed."""

    def __init__(self) -> None:
        self.system = "Linux"
        self.release = "6.1.0-13-amd64"
        self.descriptor_limit = 1 << 20
        self.files = {
            "/proc/sys/net/ipv4/ip_unprivileged_port_start": "1024",
            "/proc/sys/net/ipv4/ip_forward": "1",
            "/proc/sys/net/ipv6/conf/all/disable_ipv6": "0",
            "/proc/net/if_inet6": "",
        }
        self.version: tuple[int, str] | None = (0, "nftables v1.0.6 (Lester Gooch #5)\n")
        self.dry_run: tuple[int, str] | None = (0, "")
        self.scripts: list[str] = []
        self.has_capabilities(ALL)

    def has_capabilities(self, effective: int) -> None:
        status = f"Name:\tpython\nCapPrm:\t{ALL:016x}\nCapEff:\t{effective:016x}\nSeccomp:\t0"
        self.files["/proc/self/status"] = status

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    async def run(self, command: Sequence[str], script: str = "") -> tuple[int, str] | None:
        if list(command) == ["nft", "--version"]:
            return self.version
        assert list(command) == ["nft", "-c", "-f", "-"]
        self.scripts.append(script)
        return self.dry_run

    async def found(self, steer: Steer = "nft") -> dict[str, Finding]:
        findings = await node_findings(self, steer, OLDEST, MARK)
        for finding in findings:
            assert finding.ok or finding.fix
            assert "\n" not in finding.detail + finding.fix
        return {finding.check: finding for finding in findings}


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


async def test_a_node_that_has_everything_can_run_it(machine: FakeMachine) -> None:
    found = await machine.found()
    assert all(finding.ok for finding in found.values())
    assert can_run(found.values())
    assert list(found) == [
        "kernel",
        "low ports",
        "descriptors",
        "IPv6",
        "NET_ADMIN",
        "ip_forward",
        "src_valid_mark",
        "route_localnet",
        "nft",
        "nftables table",
    ]


async def test_the_dry_run_is_of_the_table_that_is_made(machine: FakeMachine) -> None:
    await machine.found()
    (script,) = machine.scripts
    assert script.startswith("add table inet pyproxy\n")
    assert "socket transparent 1" in script
    assert "delete" not in script


async def test_without_steering_nothing_of_the_kernel_is_asked_for(machine: FakeMachine) -> None:
    machine.has_capabilities(0)
    machine.version = None
    found = await machine.found("none")
    assert list(found) == ["kernel", "low ports", "descriptors", "IPv6"]
    assert not found["low ports"].ok
    assert can_run(found.values())


@pytest.mark.parametrize(
    ("system", "release", "ok"),
    [
        ("Linux", "6.18.44-fc", True),
        ("Linux", "5.10.0-30-amd64", True),
        ("Linux", "5.9.16", False),
        ("Linux", "4.18.0-553.el8_10.x86_64", False),
        ("Linux", "unheard-of", False),
        ("Darwin", "25.1.0", False),
    ],
)
async def test_the_kernel_is_linux_and_not_too_old(
    machine: FakeMachine, system: str, release: str, ok: bool
) -> None:
    machine.system, machine.release = system, release
    finding = (await machine.found())["kernel"]
    assert finding.ok is ok
    assert finding.detail == f"{system} {release}"


async def test_without_capabilities_it_says_which_one_to_add(machine: FakeMachine) -> None:
    machine.has_capabilities(0)
    found = await machine.found()
    assert not can_run(found.values())
    assert not found["NET_ADMIN"].ok
    assert found["NET_ADMIN"].fix.endswith("securityContext.capabilities.add: [NET_ADMIN]")
    assert found["low ports"].fix.endswith("[NET_BIND_SERVICE]")
    assert found["low ports"].detail.startswith("ports below 1024 ")


async def test_a_status_that_tells_no_capabilities_means_none(machine: FakeMachine) -> None:
    del machine.files["/proc/self/status"]
    assert not (await machine.found())["NET_ADMIN"].ok


@pytest.mark.parametrize(
    ("capabilities", "start", "ok"),
    [
        (0, "0", True),
        (0, "1", True),
        (0, "80", False),
        (0, None, False),
        (1 << 10, "1024", True),
    ],
)
async def test_low_ports_need_the_capability_or_the_sysctl(
    machine: FakeMachine, capabilities: int, start: str | None, ok: bool
) -> None:
    machine.has_capabilities(capabilities)
    del machine.files["/proc/sys/net/ipv4/ip_unprivileged_port_start"]
    if start is not None:
        machine.files["/proc/sys/net/ipv4/ip_unprivileged_port_start"] = start
    assert (await machine.found())["low ports"].ok is ok


@pytest.mark.parametrize(
    ("setting", "still_runs"), [("src_valid_mark", False), ("route_localnet", True)]
)
async def test_settings_that_others_leave_behind_are_told(
    machine: FakeMachine, setting: str, still_runs: bool
) -> None:
    machine.files[f"/proc/sys/net/ipv4/conf/all/{setting}"] = "1"
    found = await machine.found()
    assert [finding.check for finding in found.values() if not finding.ok] == [setting]
    assert can_run(found.values()) is still_runs


@pytest.mark.parametrize(
    ("limit", "ok", "detail"),
    [
        (1024, False, "1024, so about 512 connections at a time"),
        (65_536, True, "65536, so about 32768 connections at a time"),
        (resource.RLIM_INFINITY, True, "no limit"),
    ],
)
async def test_few_descriptors_are_told_but_stop_nothing(
    machine: FakeMachine, limit: int, ok: bool, detail: str
) -> None:
    machine.descriptor_limit = limit
    found = await machine.found()
    assert (found["descriptors"].ok, found["descriptors"].detail) == (ok, detail)
    assert can_run(found.values())


@pytest.mark.parametrize(
    ("path", "text"),
    [("/proc/net/if_inet6", None), ("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")],
)
async def test_ipv6_may_be_off(machine: FakeMachine, path: str, text: str | None) -> None:
    assert (await machine.found())["IPv6"].detail == "on"
    del machine.files[path]
    if text is not None:
        machine.files[path] = text
    found = await machine.found()
    assert found["IPv6"].detail.startswith("off")
    assert can_run(found.values())


async def test_a_node_that_forwards_nothing_cannot_run_it(machine: FakeMachine) -> None:
    machine.files["/proc/sys/net/ipv4/ip_forward"] = "0"
    found = await machine.found()
    assert "net.ipv4.ip_forward=1" in found["ip_forward"].fix
    assert not can_run(found.values())


@pytest.mark.parametrize(
    ("version", "detail"),
    [
        (None, "there is no such command"),
        ((0, "nftables v0.9.8 (E.D.S.)\n"), "nftables v0.9.8 (E.D.S.)"),
        ((0, "nftables v1.0.5 (Lester)\n"), "nftables v1.0.5 (Lester)"),
        ((0, "hello"), "hello"),
        ((127, "nftables v1.0.6\nlib missing"), "nftables v1.0.6 lib missing"),
    ],
)
async def test_an_nft_that_is_missing_old_or_broken_cannot_be_used(
    machine: FakeMachine, version: tuple[int, str] | None, detail: str
) -> None:
    machine.version = version
    found = await machine.found()
    assert found["nft"].detail == detail
    assert found["nft"].fix == "install nftables 1.0.6 or newer"
    assert "nftables table" not in found
    assert not can_run(found.values())


@pytest.mark.parametrize(
    ("dry_run", "fix"),
    [
        ((1, "x: Error: Operation not permitted (you must be root)\n"), "run as root"),
        ((1, "Error: Could not process rule:\n No such file"), "load the kernel's modules"),
        (None, "load the kernel's modules"),
    ],
)
async def test_a_table_that_the_kernel_does_not_take_is_told(
    machine: FakeMachine, dry_run: tuple[int, str] | None, fix: str
) -> None:
    machine.dry_run = dry_run
    found = await machine.found()
    assert not found["nftables table"].ok
    assert found["nftables table"].fix.startswith(fix)


class FakeApi:
    """Answers access reviews; refuses what `denied` names."""

    def __init__(self, *denied: tuple[str, str]) -> None:
        self.denied = denied
        self.asked: list[dict[str, Any]] = []
        self.answer: tuple[int, bytes] | Exception | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        assert path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        review = json.loads(body)
        assert review["kind"] == "SelfSubjectAccessReview"
        attributes = review["spec"]["resourceAttributes"]
        self.asked.append(attributes)
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            return self.answer
        allowed = (attributes["verb"], attributes["resource"]) not in self.denied
        status = {"allowed": allowed, "reason": "RBAC"}
        return 201, json.dumps({**review, "status": status}).encode()


async def test_it_asks_for_every_verb_and_resource_that_is_used() -> None:
    api = FakeApi()
    found = await api_findings(api, "kubeconfig x", "node-1")
    assert all(finding.ok for finding in found)
    assert [finding.check for finding in found] == [
        "API server",
        *(permission.resource for permission in PERMISSIONS),
    ]
    asked = [(a["verb"], a["group"], a["resource"], a.get("name")) for a in api.asked]
    assert asked == [
        ("list", "", "services", None),
        ("watch", "", "services", None),
        ("list", "discovery.k8s.io", "endpointslices", None),
        ("watch", "discovery.k8s.io", "endpointslices", None),
        ("list", "networking.k8s.io", "servicecidrs", None),
        ("watch", "networking.k8s.io", "servicecidrs", None),
        ("list", "", "nodes", "node-1"),
        ("watch", "", "nodes", "node-1"),
        ("create", "events.k8s.io", "events", None),
    ]


async def test_without_a_node_name_all_nodes_are_asked_for() -> None:
    api = FakeApi()
    await api_findings(api, "x", "")
    assert not any("name" in attributes for attributes in api.asked)


@pytest.mark.parametrize(
    ("denied", "check", "detail", "is_fatal"),
    [
        ("services", "services", "may not watch services: nothing is served", True),
        (
            "servicecidrs",
            "servicecidrs",
            "may not watch servicecidrs.networking.k8s.io: addresses that no Service has are left"
            " alone",
            False,
        ),
    ],
)
async def test_what_is_refused_is_told_with_what_it_costs(
    denied: str, check: str, detail: str, is_fatal: bool
) -> None:
    found = await api_findings(FakeApi(("watch", denied)), "x", "")
    (bad,) = [finding for finding in found if not finding.ok]
    assert (bad.check, bad.detail) == (check, detail)
    assert "system:node-proxier" in bad.fix
    assert can_run(found) is not is_fatal


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (ApiError("https://10.0.0.1: connection refused"), "10.0.0.1: connection refused"),
        ((401, b'{"message":\n "Unauthorized"}'), 'it answers 401: {"message": "Unauthorized"}'),
        ((200, b"<html>"), "malformed"),
        ((200, b"{}"), "status"),
        ((200, b"\xff"), ""),
    ],
)
async def test_an_api_server_that_does_not_answer_ends_the_questions(
    answer: tuple[int, bytes] | Exception, says: str
) -> None:
    api = FakeApi()
    api.answer = answer
    (finding,) = await api_findings(api, "kubeconfig x", "")
    assert (finding.check, finding.ok) == ("API server", False)
    assert finding.detail.startswith("kubeconfig x: ")
    assert says in finding.detail
    assert len(api.asked) == 1


def test_missing_credentials_are_a_finding() -> None:
    assert not can_run([no_credentials(ConfigError("no kubeconfig"))])


async def test_this_machine_reads_files_and_runs_commands() -> None:
    here = ThisMachine()
    assert here.system == "Linux"
    assert (here.read("/proc/self/status") or "").startswith("Name:")
    assert here.read("/no/such/file") is None
    script = "import sys; print(sys.stdin.read().upper(), file=sys.stderr); sys.exit(3)"
    assert await here.run([sys.executable, "-c", script], "word") == (3, "WORD\n")
    assert await here.run(["/no/such/command"]) is None


async def test_a_command_that_does_not_end_is_killed() -> None:
    here = ThisMachine(timeout_s=0.1)
    sleep = shutil.which("sleep")
    assert sleep is not None
    assert await here.run([sleep, "3600"]) == (-9, "did not end within 0.1 s")
