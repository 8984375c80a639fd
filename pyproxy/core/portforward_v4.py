"""One forwarded connection in the subprotocol v4.channel.k8s.io: messages in, events out.

The first byte of a message is its channel: 0 carries data both ways, 1 errors to us. The server
begins each channel with the port, two bytes, little-endian; both are checked. Nothing ends a
channel but the end of the websocket: there is no half-close. Source: Kubernetes cri-streaming
portforward/websocket.go, handleWebSocketStreams.
"""

from typing import NamedTuple

from pyproxy.core.portforward import error_text
from pyproxy.errors import ProtocolError

DATA_CHANNEL = 0
ERROR_CHANNEL = 1
_PRELUDE_BYTES = 2


class Connected(NamedTuple):
    """Both channels have begun. The kubelet connects to the pod only after this."""


class Payload(NamedTuple):
    """Bytes of the pod, at least one."""

    data: bytes


class Failed(NamedTuple):
    """The kubelet gives up; the end of the websocket follows. The text is one line."""

    text: str


Event = Connected | Payload | Failed


class V4Channels:
    """The two channels of one port. A channel is a stream: messages may cut it anywhere.

    port: 1 to 65535, as asked for.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._preludes = [b"", b""]

    def receive(self, message: bytes) -> list[Event]:
        """Take one binary message. Raises ProtocolError; nothing may be fed after that."""
        if not message:
            return []  # nothing was written; x/net/websocket may send such a message
        channel = message[0]
        if channel > ERROR_CHANNEL:
            raise ProtocolError(f"a message for channel {channel}, where there are only 0 and 1")
        begun = self._has_begun
        data = message[1:]
        if len(self._preludes[channel]) < _PRELUDE_BYTES:
            data = self._read_prelude(channel, data)
        events: list[Event] = [Connected()] if self._has_begun and not begun else []
        if data:
            is_data = channel == DATA_CHANNEL
            events.append(Payload(data) if is_data else Failed(error_text(data)))
        return events

    @property
    def _has_begun(self) -> bool:
        return all(len(prelude) == _PRELUDE_BYTES for prelude in self._preludes)

    def _read_prelude(self, channel: int, data: bytes) -> bytes:
        """Check the port that a channel begins with, once all of it is there; return the rest."""
        missing = _PRELUDE_BYTES - len(self._preludes[channel])
        prelude = self._preludes[channel] = self._preludes[channel] + data[:missing]
        if len(prelude) == _PRELUDE_BYTES and int.from_bytes(prelude, "little") != self._port:
            raise ProtocolError(
                f"channel {channel} begins with port {int.from_bytes(prelude, 'little')}, "
                f"not with {self._port}"
            )
        return data[missing:]


def data_message(data: bytes) -> bytes:
    """Return the message that carries bytes to the pod."""
    return bytes((DATA_CHANNEL,)) + data
