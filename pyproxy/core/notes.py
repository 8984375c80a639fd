"""What a person should know of an object: once, when it is new or when something new can be told.

One line each: the object, the field, the value, and what follows from it.
"""

from typing import NamedTuple

from pyproxy.config import ProxyConfig
from pyproxy.core.options import options_of
from pyproxy.core.selection import why_not_proxied
from pyproxy.model.endpoint import EndpointSlice
from pyproxy.model.events import Object
from pyproxy.model.service import Service, ServiceName
from pyproxy.model.table import Frontend


class Note(NamedTuple):
    """A line. annotated: the Service that has an annotation which cannot be used.

    Who wrote that annotation reads the Service's events, and not our log.
    """

    text: str
    annotated: ServiceName | None = None


def contest_notes(rivals: tuple[Frontend, ...]) -> list[Note]:
    """What to tell of an address:port that several Services claim; the first rival holds it."""
    names = list(dict.fromkeys(str(rival.backend.name) for rival in rivals))
    if len(names) < 2:  # one Service may list an address as external and as load-balancer IP
        return []
    return [
        Note(
            f"{rivals[0]} is claimed by {', '.join(names)}; {names[0]} holds it, the others are not"
            " reached there: give each Service an address or port of its own"
        )
    ]


def notes_of(
    value: Service | EndpointSlice, before: Object | None, config: ProxyConfig
) -> list[Note]:
    """What to tell of an object that is new, or of which something new can be told."""
    head = f"{type(value).__name__} {value.namespace}/{value.name}: "
    known = set(_remarks(before, config.proxy_name))
    remarks = [r for r in _remarks(value, config.proxy_name) if r not in known]
    notes = [Note(head + remark) for remark in remarks]
    if isinstance(value, Service) and value.annotations:
        known = set(_annotation_problems(before, config))
        problems = [p for p in _annotation_problems(value, config) if p not in known]
        notes += [Note(head + problem, value.key) for problem in problems]
    return notes


def _annotation_problems(value: Object | None, config: ProxyConfig) -> list[str]:
    """Those of a Service that is proxied here: others may have another pyproxy's annotations."""
    if not isinstance(value, Service) or why_not_proxied(value, config.proxy_name) is not None:
        return []
    return options_of(value.annotations, config.options)[1]


def _remarks(value: Object | None, proxy_name: str | None) -> list[str]:
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
