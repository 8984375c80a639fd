"""`explain` as the running agent answers it: the decision, and then what is found by trying.

After the checks of the decision come: whether the address is listened on, which endpoints are
ejected, whether they can be connected from here, and what has gone wrong lately.
"""

import asyncio
import os
from typing import Any

import msgspec

from pyproxy.app.control_parts import Parts
from pyproxy.app.recent_errors import WINDOW_S
from pyproxy.core.explain import explain
from pyproxy.core.explanation import Check, Explanation
from pyproxy.core.target import Target
from pyproxy.forward.binding import TAKEN
from pyproxy.forward.live import LiveEndpoint
from pyproxy.model.addresses import join_host_port
from pyproxy.model.service import ServiceName

DIAL_TIMEOUT_S = 1.0
# Endpoints of one address that are tried; and at one time.
_MOST_DIALS = 10
_MOST_TOLD = 5


async def explain_live(parts: Parts, target: Target) -> dict[str, Any]:
    """Explain a target, in the documented JSON form."""
    explanation = explain(parts.store, target)
    live = _LiveChecks(parts)
    if explanation.frontends is None:
        return (await live.added(explanation)).to_json()
    frontends = tuple([await live.added(part) for part in explanation.frontends])
    # The headline has the checks of one of its frontends.
    chosen = [part.checks is explanation.checks for part in explanation.frontends].index(True)
    checks = frontends[chosen].checks
    return msgspec.structs.replace(explanation, checks=checks, frontends=frontends).to_json()


class _LiveChecks:
    """Adds checks to explanations; each endpoint is connected once for all of them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._dialled: dict[str, str] = {}

    async def added(self, explanation: Explanation) -> Explanation:
        """The explanation of an address with what is found by trying."""
        if explanation.service is None:
            return explanation
        service = ServiceName(explanation.service.namespace, explanation.service.name)
        checks = list(explanation.checks)
        if explanation.action == "forward":
            checks.append(self._listener(explanation))
            told = await self._parts.forwarding.live("endpoints", service, _MOST_DIALS * 100)
            checks += self._ejections(explanation, told.endpoints)
            if (
                explanation.target["protocol"] == "TCP"
            ):  # UDP does not tell whether anybody is there
                checks.append(await self._dials(explanation.endpoints))
        checks += self._errors(service)
        return msgspec.structs.replace(explanation, checks=tuple(checks))

    def _listener(self, explanation: Explanation) -> Check:
        at = explanation.target
        key = (at["address"], at["port"], at["protocol"])
        forwarding = self._parts.forwarding
        fault = forwarding.bind_faults().get(key)
        if fault is not None:
            fix = "end what has it, or find out with: ss -lntup" if fault == TAKEN else ""
            return Check("Listener", ok=False, detail=f"cannot listen on it: {fault}", fix=fix)
        if forwarding.is_listening(key):
            return Check("Listener", ok=True, detail="the agent listens on it")
        return Check(
            "Listener",
            ok=False,
            detail="the agent does not listen on it",
            fix="see whether it drains or has just started: pyproxy status",
        )

    def _ejections(self, explanation: Explanation, rows: list[LiveEndpoint]) -> list[Check]:
        ejected = {
            join_host_port(*row.endpoint): row.ejected_s
            for row in rows
            if row.ejected_s and join_host_port(*row.endpoint) in explanation.endpoints
        }
        if not ejected:
            return []
        told = ", ".join(f"{e} for {s:.0f} s yet" for e, s in sorted(ejected.items()))
        detail = f"{len(ejected)} of {len(explanation.endpoints)} endpoints are left out: {told}"
        return [
            Check(
                "Ejection", ok=False, detail=detail, fix="they come back once they can be connected"
            )
        ]

    async def _dials(self, endpoints: tuple[str, ...]) -> Check:
        tried = endpoints[:_MOST_DIALS]
        new = [endpoint for endpoint in tried if endpoint not in self._dialled]
        async with asyncio.TaskGroup() as group:
            dials = {endpoint: group.create_task(_dial(endpoint)) for endpoint in new}
        self._dialled.update({endpoint: task.result() for endpoint, task in dials.items()})
        faults = [f"{e}: {self._dialled[e]}" for e in tried if self._dialled[e]]
        if not faults:
            return Check("Dial", ok=True, detail=f"connected from this node: {', '.join(tried)}")
        detail = f"{len(faults)} of {len(tried)} cannot be connected from this node: "
        return Check(
            "Dial",
            ok=False,
            detail=detail + "; ".join(faults),
            fix="see whether the pod listens on its targetPort on all addresses, and whether a"
            " NetworkPolicy keeps this node out",
        )

    def _errors(self, service: ServiceName) -> list[Check]:
        errors = self._parts.errors.latest(service)
        if not errors:
            return []
        told = [
            f"{error.count} x {'connect ' * (error.kind == 'connect')}{error.reason}"
            for error in errors[:_MOST_TOLD]
        ]
        detail = f"in the last {WINDOW_S / 60:.0f} minutes: {', '.join(told)}"
        return [Check("RecentErrors", ok=True, detail=detail)]


async def _dial(endpoint: str) -> str:
    """Connect to an endpoint and close; say why it could not be, or nothing."""
    host, _, port = endpoint.rpartition(":")
    try:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except TimeoutError:
        return f"no answer within {DIAL_TIMEOUT_S:g} s"
    except OSError as fault:
        return os.strerror(fault.errno) if fault.errno else str(fault)
    writer.close()
    return ""
