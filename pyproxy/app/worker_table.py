"""Frontends and Backends as the agent's messages carry them: what forwarding needs, and that once.

A node may have a hundred thousand endpoints, each of them in several lists, and each worker holds
them all. So an endpoint is told once for a Backend, as its address, its port and whether it is
local; the lists name it by number. Its pod, node, zones and conditions have done their work in the
agent.
"""

from collections.abc import Iterable

import msgspec

from pyproxy.model.endpoint import Endpoint
from pyproxy.model.persistent import PersistentMap
from pyproxy.model.service import Protocol
from pyproxy.model.table import Backend, Frontend, FrontendKey, FrontendKind

# (address, port, protocol, kind, number of its Backend in the same message)
WireFrontend = tuple[str, int, Protocol, FrontendKind, int]
# Numbers of endpoints; None: all, in their order.
_Numbers = list[int] | None


class _WireBackend(msgspec.Struct, frozen=True, array_like=True):
    """A Backend. `rest`: all of it but endpoints. endpoints: (address, port, is_local)."""

    rest: Backend
    endpoints: list[tuple[str, int, bool]]
    cluster: _Numbers
    local: _Numbers
    serving: _Numbers


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_WireBackend)


def packed(frontends: Iterable[Frontend]) -> tuple[list[msgspec.Raw], list[WireFrontend]]:
    """Return frontends as a message has them: the Backends that they share stand once."""
    numbers: dict[int, int] = {}
    backends: list[msgspec.Raw] = []
    found: list[WireFrontend] = []
    for frontend in frontends:
        number = numbers.setdefault(id(frontend.backend), len(backends))
        if number == len(backends):
            backends.append(msgspec.Raw(_encoder.encode(_pack(frontend.backend))))
        found.append((*frontend.key, frontend.kind, number))
    return backends, found


def unpacked(backends: list[msgspec.Raw], frontends: list[WireFrontend]) -> list[Frontend]:
    """Return the frontends of a message. Raises msgspec.DecodeError."""
    # One by one: all of them in both forms at once would be a third of a worker's memory for good.
    whole = [_unpack(_decoder.decode(raw)) for raw in backends]
    return [
        Frontend(address, port, protocol, kind, whole[number])
        for address, port, protocol, kind, number in frontends
    ]


def applied(
    before: PersistentMap[FrontendKey, Frontend],
    gone: Iterable[FrontendKey],
    new: Iterable[Frontend],
) -> PersistentMap[FrontendKey, Frontend]:
    """Return the frontends after a change."""
    changes: dict[FrontendKey, Frontend | None] = dict.fromkeys(gone)
    changes.update((frontend.key, frontend) for frontend in new)
    return before.changed(changes)


def _pack(backend: Backend) -> _WireBackend:
    is_local = {(e.address, e.port): e.is_local for e in (*backend.cluster, *backend.local)}
    for key in backend.serving:
        is_local.setdefault(key, False)
    numbers = {key: number for number, key in enumerate(is_local)}

    def named(keys: list[tuple[str, int]]) -> _Numbers:
        found = [numbers[key] for key in keys]
        return None if found == list(range(len(numbers))) else found

    return _WireBackend(
        msgspec.structs.replace(backend, cluster=(), local=(), serving=frozenset()),
        [(*key, local) for key, local in is_local.items()],
        named([(e.address, e.port) for e in backend.cluster]),
        named([(e.address, e.port) for e in backend.local]),
        None if len(backend.serving) == len(numbers) else [numbers[k] for k in backend.serving],
    )


def _unpack(backend: _WireBackend) -> Backend:
    keys = [(address, port) for address, port, _ in backend.endpoints]
    endpoints = tuple(Endpoint(a, port, is_local=local) for a, port, local in backend.endpoints)

    def listed(numbers: _Numbers) -> tuple[Endpoint, ...]:
        return endpoints if numbers is None else tuple(endpoints[n] for n in numbers)

    serving = keys if backend.serving is None else [keys[n] for n in backend.serving]
    return msgspec.structs.replace(
        backend.rest,
        cluster=listed(backend.cluster),
        local=listed(backend.local),
        serving=frozenset(serving),
    )
