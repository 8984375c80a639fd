"""The answer of `explain` as a value: its JSON form is an interface that must stay stable."""

from typing import Any, Literal, get_args

import msgspec

from pyproxy.core.decision import Source
from pyproxy.model.service import ServicePortName
from pyproxy.model.table import Action, FrontendKind

# The closed list of reasons. docs/explain.md tells each in words; a test holds the two together.
Reason = Literal[
    "Forwarded",
    "NoSuchService",
    "ExternalName",
    "Headless",
    "OtherProxy",
    "NoClusterIP",
    "UnknownPort",
    "ProtocolMismatch",
    "ProtocolNotSupported",
    "AddressNotServed",
    "AddressContested",
    "NotCaptured",
    "UnallocatedAddress",
    "NotAService",
    "SourceNotAllowed",
    "NoEndpointSlice",
    "NoEndpoint",
    "PortNameMismatch",
    "PortProtocolMismatch",
    "NoReadyEndpoint",
    "NoLocalEndpoint",
]
REASONS: tuple[str, ...] = get_args(Reason)


class Check(msgspec.Struct, frozen=True):
    """One step of the diagnosis: what was looked at, whether it is well, and if not, what to do."""

    check: str
    ok: bool
    detail: str
    fix: str = ""


class ServicePortRef(msgspec.Struct, frozen=True):
    """The Service port that an address leads to."""

    namespace: str
    name: str
    port: str
    protocol: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to a new connection, and why. `endpoints` is sorted by text.

    source: whose address the endpoint sees, None unless the connection is forwarded.
    frontends: for a target by name, the answer for each address of the Service.
    """

    target: dict[str, Any]
    service: ServicePortRef | None = None
    frontend: FrontendKind | None = None
    action: Action
    endpoints: tuple[str, ...] = ()
    source: Source | None = None
    affinity_seconds: int | None = None
    reason: Reason
    checks: tuple[Check, ...]
    frontends: tuple["Explanation", ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The documented JSON form, as plain data."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        if self.frontends is None:
            del plain["frontends"]
        else:
            plain["frontends"] = [frontend.to_json() for frontend in self.frontends]
        return plain


def ref(name: ServicePortName) -> ServicePortRef:
    """Name a Service port in the JSON form."""
    return ServicePortRef(*name)
