"""Whether this node can run pyproxy: what is looked at, what it must be, and how to mend it.

Nothing is changed: files of /proc are read, nft only checks what it is given, and the API server is
only asked what it would allow. What is read and run comes from a `Machine`, so that all of it can
be tested without one.
"""

import asyncio
import os
import re
import resource
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from pyproxy.core import ruleset_script, transaction
from pyproxy.errors import ApiError
from pyproxy.ops.events import Poster

Steer = Literal["none", "nft"]
Version = tuple[int, ...]

# What it is tested with reaches back to here: Debian 11, the oldest that still gets fixes.
OLDEST_KERNEL = (5, 10)
# Each connection takes two descriptors, and each listener one.
FEW_DESCRIPTORS = 65_536
_MAX_OUTPUT = 300

# Bits of CapEff in /proc/self/status (capabilities(7), linux/capability.h).
_CAPABILITIES = {"NET_BIND_SERVICE": 10, "NET_ADMIN": 12}
_POD = "in a pod, securityContext.capabilities.add"
_SETTINGS = "/proc/sys/net/ipv4/conf/all/"
_WHO_SETS_IT = "wg-quick and Calico set it for WireGuard"


class Finding(msgspec.Struct, frozen=True):
    """One check. required: whether pyproxy cannot do its work on this node without it."""

    check: str
    ok: bool
    detail: str
    fix: str = ""
    required: bool = True


def can_run(findings: Iterable[Finding]) -> bool:
    """Whether everything that is required is there."""
    return all(finding.ok for finding in findings if finding.required)


class Machine(Protocol):
    """What there is to look at."""

    system: str
    release: str
    descriptor_limit: int

    def read(self, path: str) -> str | None:
        """Return a file's text without the space around it, or None when it cannot be read."""

    async def run(self, command: Sequence[str], script: str = "") -> tuple[int, str] | None:
        """Run a command; return its status and what it wrote, or None when there is none."""


class ThisMachine:
    """The real one."""

    def __init__(self, timeout_s: float = 20.0) -> None:
        found = os.uname()
        self._timeout_s = timeout_s
        self.system, self.release = found.sysname, found.release
        _, self.descriptor_limit = resource.getrlimit(resource.RLIMIT_NOFILE)

    def read(self, path: str) -> str | None:
        """Read a file."""
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError:
            return None

    async def run(self, command: Sequence[str], script: str = "") -> tuple[int, str] | None:
        """Run a command; one that does not end in time is killed, and has status -9."""
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        except OSError:
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                output, _ = await process.communicate(script.encode())
        except TimeoutError:
            output = f"did not end within {self._timeout_s:g} s".encode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return process.returncode or 0, output.decode(errors="replace")


async def node_findings(
    machine: Machine, steer: Steer, nft_oldest: Version, mark: int
) -> list[Finding]:
    """Look at the node itself. steer: how packets are to come to pyproxy."""
    is_steering = steer == "nft"
    capabilities = _capabilities(machine)
    findings = [
        _kernel(machine),
        _low_ports(machine, capabilities, is_required=is_steering),
        _descriptors(machine),
        _ipv6(machine),
    ]
    if is_steering:
        findings += [_net_admin(capabilities), _forwarding(machine)]
        findings += [_source_mark(machine), _route_localnet(machine)]
        findings += await _nft(machine, nft_oldest, mark)
    return findings


def _numbers(text: str) -> Version:
    """The first numbers of a version: 6.1 of "6.1.0-13-amd64" is (6, 1, 0)."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _kernel(machine: Machine) -> Finding:
    detail = f"{machine.system} {machine.release}"
    if machine.system != "Linux":
        return Finding("kernel", ok=False, detail=detail, fix="run pyproxy on Linux")
    if _numbers(machine.release) < OLDEST_KERNEL:
        fix = f"use a kernel of {_dotted(OLDEST_KERNEL)} or newer; older ones are not tested"
        return Finding("kernel", ok=False, detail=detail, fix=fix)
    return Finding("kernel", ok=True, detail=detail)


def _capabilities(machine: Machine) -> set[str]:
    status = machine.read("/proc/self/status") or ""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    effective = int(found[1], 16) if found else 0
    return {name for name, bit in _CAPABILITIES.items() if effective >> bit & 1}


def _net_admin(capabilities: set[str]) -> Finding:
    what = "changes nftables and routes, and listens on addresses of no interface"
    if "NET_ADMIN" in capabilities:
        return Finding("NET_ADMIN", ok=True, detail=f"this process {what}")
    return Finding(
        "NET_ADMIN",
        ok=False,
        detail=f"this process lacks the capability; with it, it {what}",
        fix=f"run as root; {_POD}: [NET_ADMIN]",
    )


def _source_mark(machine: Machine) -> Finding:
    """With it the kernel looks up the way back to a client by the mark too, and finds itself."""
    if machine.read(_SETTINGS + "src_valid_mark") == "1":
        return Finding(
            "src_valid_mark",
            ok=False,
            detail="on: the kernel drops every IPv4 packet that is steered, as of a false source",
            fix=f"sysctl -w net.ipv4.conf.all.src_valid_mark=0 ({_WHO_SETS_IT})",
        )
    return Finding("src_valid_mark", ok=True, detail="off")


def _route_localnet(machine: Machine) -> Finding:
    if machine.read(_SETTINGS + "route_localnet") == "1":
        return Finding(
            "route_localnet",
            ok=False,
            detail="on, as kube-proxy leaves it: without pyproxy's table, neighbours of this node"
            " could reach what listens on its loopback",
            fix="sysctl -w net.ipv4.conf.all.route_localnet=0, once kube-proxy is gone",
            required=False,
        )
    return Finding("route_localnet", ok=True, detail="off", required=False)


def _low_ports(machine: Machine, capabilities: set[str], *, is_required: bool) -> Finding:
    path = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    start = int(machine.read(path) or 1024)
    if "NET_BIND_SERVICE" in capabilities:
        return Finding("low ports", ok=True, detail="every port (NET_BIND_SERVICE)")
    if start <= 1:
        detail = f"every port (net.ipv4.ip_unprivileged_port_start = {start})"
        return Finding("low ports", ok=True, detail=detail)
    return Finding(
        "low ports",
        ok=False,
        detail=f"ports below {start} cannot be listened on: DNS and HTTP Services have such ports",
        fix=f"run as root, or sysctl -w net.ipv4.ip_unprivileged_port_start=0;"
        f" {_POD}: [NET_BIND_SERVICE]",
        required=is_required,
    )


def _descriptors(machine: Machine) -> Finding:
    limit = machine.descriptor_limit
    if limit == resource.RLIM_INFINITY:
        return Finding("descriptors", ok=True, detail="no limit")
    detail = f"{limit}, so about {limit // 2} connections at a time"
    if limit >= FEW_DESCRIPTORS:
        return Finding("descriptors", ok=True, detail=detail)
    fix = f"raise the hard limit to {FEW_DESCRIPTORS} or more (ulimit -Hn, LimitNOFILE=)"
    return Finding("descriptors", ok=False, detail=detail, fix=fix, required=False)


def _ipv6(machine: Machine) -> Finding:
    """kube-proxy's test of whether the kernel has it (9.7)."""
    has_it = machine.read("/proc/net/if_inet6") is not None
    is_off = machine.read("/proc/sys/net/ipv6/conf/all/disable_ipv6") == "1"
    if has_it and not is_off:
        return Finding("IPv6", ok=True, detail="on", required=False)
    detail = "off: Services have IPv4 only here"
    return Finding("IPv6", ok=True, detail=detail, required=False)


def _forwarding(machine: Machine) -> Finding:
    if machine.read("/proc/sys/net/ipv4/ip_forward") == "1":
        return Finding("ip_forward", ok=True, detail="on")
    return Finding(
        "ip_forward",
        ok=False,
        detail="off: the pods of this node reach nobody",
        fix="sysctl -w net.ipv4.ip_forward=1 (mostly the network plugin does it)",
    )


async def _nft(machine: Machine, oldest: Version, mark: int) -> list[Finding]:
    fix = f"install nftables {_dotted(oldest)} or newer"
    found = await machine.run(["nft", "--version"])
    if found is None:
        return [Finding("nft", ok=False, detail="there is no such command", fix=fix)]
    text = _one_line(found[1])
    if found[0] != 0 or _numbers(text) < oldest:
        return [Finding("nft", ok=False, detail=text, fix=fix)]
    return [Finding("nft", ok=True, detail=text), await _dry_run(machine, mark)]


async def _dry_run(machine: Machine, mark: int) -> Finding:
    """Let nft check, and not apply (-c), the very table that pyproxy makes."""
    steps = ruleset_script.base(mark).steps
    found = await machine.run(["nft", "-c", "-f", "-"], transaction.script(steps))
    if found is not None and found[0] == 0:
        detail = "the kernel takes its maps, and its socket and tproxy expressions"
        return Finding("nftables table", ok=True, detail=detail)
    text = _one_line(found[1]) if found is not None else "nft is gone"
    if "Operation not permitted" in text:
        fix = f"run as root; {_POD}: [NET_ADMIN]"
    else:
        fix = "load the kernel's modules nf_tables, nft_socket, nft_tproxy and nft_reject_inet"
    return Finding("nftables table", ok=False, detail=text, fix=fix)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_MAX_OUTPUT]


class Permission(NamedTuple):
    """What is asked of the API server; `without` says what happens where it is refused."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    required: bool
    without: str


PERMISSIONS = (
    Permission("", "services", ("list", "watch"), True, "nothing is served"),
    Permission("discovery.k8s.io", "endpointslices", ("list", "watch"), True, "nothing is served"),
    Permission(
        "networking.k8s.io",
        "servicecidrs",
        ("list", "watch"),
        False,
        "addresses that no Service has are left alone",
    ),
    Permission(
        "",
        "nodes",
        ("list", "watch"),
        False,
        "the node's zone, addresses and podCIDRs are not known, and /healthz fails",
    ),
    Permission("events.k8s.io", "events", ("create",), False, "no events are posted"),
)


async def api_findings(poster: Poster, origin: str, node_name: str) -> list[Finding]:
    """Ask the API server what it allows. origin: whose credentials these are."""
    findings = []
    for permission in PERMISSIONS:
        try:
            refused = [
                verb
                for verb in permission.verbs
                if not await _may(poster, permission, verb, node_name)
            ]
        except (ApiError, msgspec.DecodeError, UnicodeDecodeError) as fault:
            fix = "see that the address is right and can be reached from here, and who it is for"
            return [Finding("API server", ok=False, detail=f"{origin}: {fault}", fix=fix)]
        findings.append(_permission(permission, refused))
    return [Finding("API server", ok=True, detail=origin), *findings]


def no_credentials(fault: Exception) -> Finding:
    """Say that there is no API server to ask."""
    fix = "give --kubeconfig FILE, or run it in a pod; pyproxy run --manifests needs none"
    return Finding("API server", ok=False, detail=str(fault), fix=fix)


def _permission(permission: Permission, refused: list[str]) -> Finding:
    what = f"{permission.resource}.{permission.group}".removesuffix(".")
    if not refused:
        detail = f"may {' and '.join(permission.verbs)} {what}"
        return Finding(permission.resource, ok=True, detail=detail, required=permission.required)
    return Finding(
        permission.resource,
        ok=False,
        detail=f"may not {' and '.join(refused)} {what}: {permission.without}",
        fix="kubectl create clusterrolebinding pyproxy --clusterrole system:node-proxier"
        " --serviceaccount NAMESPACE:NAME",
        required=permission.required,
    )


async def _may(poster: Poster, permission: Permission, verb: str, node_name: str) -> bool:
    """Whether we may do it; a SelfSubjectAccessReview is answered and not stored."""
    attributes = {"group": permission.group, "resource": permission.resource, "verb": verb}
    if permission.resource == "nodes" and node_name:
        attributes["name"] = node_name  # the watch names it, so a role may be for it only
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    status, body = await poster.post(path, msgspec.json.encode(review))
    if not 200 <= status < 300:
        text = _one_line(body.decode(errors="replace"))
        raise ApiError(f"it answers {status}: {text}", status=status)
    answer: Any = msgspec.json.decode(body, type=_Review)
    return bool(answer.status.allowed)


class _ReviewStatus(msgspec.Struct):
    allowed: bool = False


class _Review(msgspec.Struct):
    status: _ReviewStatus
