"""What a transport offers for one connection to a pod: bytes both ways, and two ends."""

from typing import Protocol


class Channel(Protocol):
    """A connected channel. One task sends, another receives. All may raise TunnelError."""

    async def send(self, data: bytes) -> None:
        """Send bytes to the pod; waits while too many are unsent."""

    async def finish(self) -> None:
        """Tell the pod the client's FIN, as far as the transport can."""

    async def receive(self) -> bytes:
        """Return bytes of the pod; b"" is its FIN, and is the last.

        It may be cancelled without losing bytes.
        """

    async def wait_over(self) -> None:
        """Wait, after the pod's FIN, until the pod takes no more bytes either."""

    async def watch(self) -> None:
        """Run beside the others, and raise TunnelError when the server is dead."""

    async def close(self) -> None:
        """Give everything back; what is not over yet is cut. Needs a bounded time."""
