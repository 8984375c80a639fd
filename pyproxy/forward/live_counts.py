"""How many connections of a Service are live on this node, whichever process holds them."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pyproxy.model.service import ServiceName


class LiveCounts(Protocol):
    """Adds up what the processes of one agent hold."""

    def publish(self, service: "ServiceName", live: int) -> int:
        """Tell how many connections of a Service this process holds; return those of all."""


class OwnCounts:
    """The counts of a process that forwards alone."""

    def publish(self, service: "ServiceName", live: int) -> int:  # noqa: ARG002  there is no other
        """Return `live`."""
        return live
