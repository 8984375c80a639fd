"""How a Service is, in one word and one sentence, for people who look at many of them.

Judged from what is known now: a Service that cannot answer any new client is failing; one that can,
while something about it is not as it should be, is degraded.
"""

from typing import Literal

import msgspec

from pyproxy.core.selection import NotProxied

State = Literal["healthy", "degraded", "failing", "left"]

_LEFT: dict[NotProxied, str] = {
    "ExternalName": "not proxied: DNS answers with a CNAME, and clients connect to that name",
    "Headless": "not proxied: headless, DNS answers with the pods' own addresses",
    "OtherProxy": "not proxied: its label service-proxy-name leaves it to another proxy",
    "NoClusterIP": "not proxied: it has no ClusterIP yet",
}


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What is seen of one Service, over all of its ports.

    left: why it is not proxied. unbound: frontends that should be listened on and are not.
    usable: endpoints that the policies leave, as against those that are ready, and all.
    ejected: endpoints that a process leaves out now. errors: in the last minute.
    """

    left: NotProxied | None = None
    ports: int = 1
    frontends: int = 1
    unbound: int = 0
    total: int = 1
    ready: int = 1
    usable: int = 1
    ejected: int = 0
    errors: int = 0


def state_of(seen: Seen) -> tuple[State, str]:
    """Return the word and the sentence; that of a healthy Service is empty."""
    if seen.left is not None:
        return "left", _LEFT[seen.left]
    if not seen.ports:
        return "left", "not proxied: it has no ports"
    failing = _failing(seen)
    if failing:
        return "failing", failing
    doubts = list(_doubts(seen))
    return ("degraded", "; ".join(doubts)) if doubts else ("healthy", "")


def _failing(seen: Seen) -> str:
    if seen.frontends and seen.unbound == seen.frontends:
        return "none of its addresses can be listened on"
    if not seen.total:
        return "it has no endpoints"
    if not seen.usable:
        if seen.ready:
            return f"its traffic policy leaves none of {_count(seen.total, 'endpoint')}"
        return f"none of {_count(seen.total, 'endpoint')} is ready"
    return ""


def _doubts(seen: Seen) -> list[str]:
    doubts = []
    if seen.unbound:
        doubts.append(f"{seen.unbound} of {seen.frontends} addresses cannot be listened on")
    if seen.ready < seen.total:
        doubts.append(f"{seen.ready} of {_count(seen.total, 'endpoint')} ready")
    if seen.ejected:
        doubts.append("endpoints that cannot be connected are left out")
    if seen.errors:
        doubts.append(f"{_count(seen.errors, 'error')} in the last minute")
    return doubts


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
