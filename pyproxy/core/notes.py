"""What a person should know of an object: once, when it is new or when something new can be told.

One line each: the object, the field, the value, and what follows from it.
"""

from pyproxy.core.selection import why_not_proxied
from pyproxy.model.endpoint import EndpointSlice
from pyproxy.model.events import Object
from pyproxy.model.service import Service
from pyproxy.model.table import Frontend


def contest_notes(rivals: tuple[Frontend, ...]) -> list[str]:
    """What to tell of an address:port that several Services claim; the first rival holds it."""
    names = list(dict.fromkeys(str(rival.backend.name) for rival in rivals))
    if len(names) < 2:  # one Service may list an address as external and as load-balancer IP
        return []
    return [
        f"{rivals[0]} is claimed by {', '.join(names)}; {names[0]} holds it, the others are not"
        " reached there: give each Service an address or port of its own"
    ]


def notes_of(
    value: Service | EndpointSlice, before: Object | None, proxy_name: str | None
) -> list[str]:
    """What to tell of an object that is new, or of which something new can be told."""
    known = set(_remarks(before, proxy_name)) if isinstance(before, type(value)) else set()
    kind = type(value).__name__
    name = f"{value.namespace}/{value.name}"
    return [f"{kind} {name}: {r}" for r in _remarks(value, proxy_name) if r not in known]


def _remarks(value: Object, proxy_name: str | None) -> list[str]:
    remarks = list(value.problems) if isinstance(value, Service | EndpointSlice) else []
    if isinstance(value, EndpointSlice) and not value.service_name:
        remarks.append("it has no label kubernetes.io/service-name, so it feeds no Service")
    if isinstance(value, Service):
        if why_not_proxied(value, proxy_name) == "ExternalName":
            remarks.append(
                f"an ExternalName Service is not proxied: clients get {value.external_name!r}"
                " from the cluster's DNS and connect to that by themselves"
            )
        remarks.extend(
            f"spec.ports: port {port.port}/SCTP is left out: SCTP is not supported"
            for port in value.ports
            if port.protocol == "SCTP"
        )
    return remarks
