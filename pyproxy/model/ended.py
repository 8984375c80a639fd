"""A TCP connection or UDP flow that is over, told as a value."""

from typing import Literal

import msgspec

from pyproxy.model.service import ServicePortName

# Of which ends the access log tells.
AccessMode = Literal["off", "errors", "sampled", "all"]

# Of endpoints that could not be connected, those that are named.
MOST_FAILED = 8


class Ended(msgspec.Struct, frozen=True, array_like=True):
    """What is told of it. Addresses come with their port; times are seconds.

    reason: a word of pyproxy.model.reasons: CloseReason or FlowEnd; of a UDP client that got no
    flow, DatagramDrop. endpoint: None before one was picked. ended_s: by the monotonic clock that
    all processes of a host share. failed: endpoints that could not be connected, some of them if
    they are many. connect_s: until an endpoint was connected; None without one, and of UDP.
    datagrams_*: None of TCP.
    """

    service_port: ServicePortName
    frontend: tuple[str, int]
    client: tuple[str, int]
    endpoint: tuple[str, int] | None
    reason: str
    ended_s: float
    duration_s: float = 0.0
    connect_s: float | None = None
    attempts: int = 0
    failed: list[tuple[str, int]] = []
    bytes_to_endpoint: int = 0
    bytes_to_client: int = 0
    datagrams_to_endpoint: int | None = None
    datagrams_to_client: int | None = None
