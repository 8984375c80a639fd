"""The environment variables that a pod gets for Services, with the local places in them.

The names are kubelet's (`pkg/kubelet/envvars/envvars.go`, FromServices and makeLinkVariables): they
have the ports of the Service, and the values have where those are here. As there, headless Services
have none. A pod sees one namespace only; here several meet, so a Service whose name is taken
already has its namespace in front: SHOP_WEB_SERVICE_HOST.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pyproxy.core.local_names import Scope
from pyproxy.core.local_service import Claimant
from pyproxy.core.loopback import LocalPort, Placement, Placements

# What a shell takes as a name (POSIX.1-2024, XBD 3.216). kubelet writes others too.
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*", re.ASCII)

Variable = tuple[str, str]


class Environment(NamedTuple):
    """The variables, in the order of their Services; and what a person should know of them."""

    variables: dict[str, str]
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """An env file: for `docker run --env-file`, or `set -a; . FILE` in a shell."""
        return "".join(f"{name}={value}\n" for name, value in self.variables.items())


def environment_of(placements: Placements, scope: Scope) -> Environment:
    """Return the variables of every Service that is placed."""
    prefixes, notes = _prefixes(placements, scope)
    placed = [(prefix, placements[claimant]) for claimant, prefix in prefixes.items()]
    variables: dict[str, str] = {}
    # Service `web-service` has a link variable WEB_SERVICE_PORT, and that is Service web's port.
    # Links are for what was written for Docker, so they come last and give way.
    for write in (_service_variables, _link_variables):
        for prefix, placement in placed:
            for name, value in write(prefix, placement):
                if not _VARIABLE.fullmatch(name):
                    notes.append(f"{placement.claimant}: {name} is no name of a variable")
                elif variables.setdefault(name, value) != value:
                    notes.append(f"{placement.claimant}: {name} is another Service's variable")
    return Environment(variables, tuple(notes))


def _prefixes(placements: Placements, scope: Scope) -> tuple[dict[Claimant, str], list[str]]:
    """The first part of the names of each Service: no two have one."""
    owners: dict[str, Claimant] = {}
    notes = []
    for claimant in sorted(_with_ports(placements), key=lambda c: (scope.rank(c), c)):
        plain, long = _name(claimant.name), _name(f"{claimant.namespace}-{claimant.name}")
        prefix = next((p for p in (plain, long) if p not in owners), None)
        if prefix is None:
            notes.append(f"{claimant}: no variables: {plain} and {long} are other Services'")
            continue
        if prefix is long:
            notes.append(f"{claimant}: its variables are {long}_*: {plain}_* are {owners[plain]}'s")
        owners[prefix] = claimant
    return {claimant: prefix for prefix, claimant in owners.items()}, notes


def _with_ports(placements: Placements) -> Iterable[Claimant]:
    return (c for c, placement in placements.items() if placement.ports and not c.pod)


def _service_variables(prefix: str, placement: Placement) -> Iterator[Variable]:
    yield f"{prefix}_SERVICE_HOST", placement.address
    yield f"{prefix}_SERVICE_PORT", str(placement.ports[0].local)
    for port in placement.ports:
        if port.name:
            yield f"{prefix}_SERVICE_PORT_{_name(port.name)}", str(port.local)


def _link_variables(prefix: str, placement: Placement) -> Iterator[Variable]:
    """Docker's legacy container links."""
    yield f"{prefix}_PORT", _url(placement, placement.ports[0])
    for port in placement.ports:
        link = f"{prefix}_PORT_{port.port}_{port.protocol}"
        yield link, _url(placement, port)
        yield f"{link}_PROTO", port.protocol.lower()
        yield f"{link}_PORT", str(port.local)
        yield f"{link}_ADDR", placement.address


def _url(placement: Placement, port: LocalPort) -> str:
    return f"{port.protocol.lower()}://{placement.address}:{port.local}"


def _name(text: str) -> str:
    return text.upper().replace("-", "_")
