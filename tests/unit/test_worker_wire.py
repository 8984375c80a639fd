"""The wire between agent and workers: framing, messages, and tables told as changes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.app.worker_table import applied, packed, unpacked
from pyproxy.app.worker_wire import (
    Counts,
    Done,
    Drain,
    Frames,
    Hello,
    Ping,
    Pins,
    Records,
    Retire,
    Stop,
    StopListening,
    Table,
    ToAgent,
    ToWorker,
    frame,
    read_by_agent,
    read_by_worker,
)
from pyproxy.core.access_log import AccessRules
from pyproxy.core.affinity import Pin
from pyproxy.forward.forwarder import changes
from pyproxy.forward.records import EndsSettings
from pyproxy.forward.settings import ForwardSettings
from pyproxy.model.addresses import Cidr
from pyproxy.model.ended import Ended
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.node import NodeView
from pyproxy.model.options import ServiceOptions
from pyproxy.model.persistent import PersistentMap
from pyproxy.model.service import ServiceName, ServicePortName
from pyproxy.model.table import Backend, Frontend, FrontendKey

NAME = ServicePortName("default", "web", "http", "TCP")
ENDPOINT = Endpoint("10.0.0.1", 80, is_local=True)
WEB = Backend(
    name=NAME,
    family="IPv4",
    cluster=(ENDPOINT,),
    local=(ENDPOINT,),
    has_any=True,
    serving=frozenset({("10.0.0.1", 80)}),
    affinity_seconds=3,
    source_ranges=(Cidr("10.0.0.0", 8),),
    options=ServiceOptions(max_connections=5),
)
PIN = Pin(NAME, "IPv4", "192.0.2.1", ("10.0.0.1", 80), 1.5)
KEY: FrontendKey = ("10.96.0.1", 80, "TCP")
ENDS = EndsSettings(access=AccessRules(mode="sampled", sample=7))
BACKENDS, FRONTENDS = packed([Frontend(*KEY, "ClusterIP", WEB)])

TO_WORKER: tuple[ToWorker, ...] = (
    Hello(1, 2, 9, ForwardSettings(max_connections=7), ENDS, 30.0, 20, "json"),
    Table(
        1, 7, NodeView(name="node-1", primary={"IPv4": "10.0.0.9"}), [KEY], BACKENDS, FRONTENDS, []
    ),
    Table(
        2, 8, None, [], [], [], [(ServiceName("default", "web"), 3), (ServiceName("a", "b"), None)]
    ),
    Retire(3),
    Ping(4),
    StopListening(5, has_successor=True),
    Pins([PIN]),
    Drain(30.0),
    Stop(),
)
TO_AGENT: tuple[ToAgent, ...] = (
    Done(3, [KEY], [("::1", 53, "UDP")], [(KEY, "the address is not on this host")]),
    Counts([(NAME, {"opened": 3, "closed": {"finished": 1}})], {"bind_errors": 2}, 4, 5, 6),
    Pins([PIN]),
    Records([Ended(NAME, KEY[:2], ("192.0.2.1", 4242), None, "no_endpoint", 1.5)], 3),
)


def payload(message: ToWorker | ToAgent) -> bytes:
    (found,) = Frames().feed(frame(message))
    return found


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda m: type(m).__name__)
def test_what_the_agent_says_arrives_as_it_was_said(message: ToWorker) -> None:
    assert read_by_worker(payload(message)) == message


@pytest.mark.parametrize("message", TO_AGENT, ids=lambda m: type(m).__name__)
def test_what_a_worker_says_arrives_as_it_was_said(message: ToAgent) -> None:
    assert read_by_agent(payload(message)) == message


def test_the_agent_takes_no_orders() -> None:
    with pytest.raises(msgspec.DecodeError):
        read_by_agent(payload(Retire(1)))


@given(st.data())
def test_frames_come_whole_however_the_stream_is_cut(data: st.DataObject) -> None:
    messages = data.draw(st.lists(st.sampled_from(TO_WORKER), max_size=6))
    stream = b"".join(map(frame, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    frames = Frames()
    arrived = [read_by_worker(p) for piece in pieces for p in frames.feed(piece)]
    assert arrived == messages


def test_frontends_of_one_service_port_share_their_backend_on_the_other_side() -> None:
    two = [
        Frontend("10.96.0.1", 80, "TCP", "ClusterIP", WEB),
        Frontend("10.0.0.9", 30080, "TCP", "NodePort", WEB),
    ]
    backends, frontends = packed(two)
    assert len(backends) == 1
    read = read_by_worker(payload(Table(1, 1, None, [], backends, frontends, [])))
    assert isinstance(read, Table)
    first, second = unpacked(read.backends, read.frontends)
    assert first.backend is second.backend
    assert {first, second} == set(two)


# Each endpoint of a Service: whether it is in the cluster list, in the local list, and serving.
memberships = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=4)


def backend(number: int, members: list[tuple[bool, bool, bool]]) -> Backend:
    endpoints = [Endpoint(f"10.0.{number}.{n}", 80, is_local=m[1]) for n, m in enumerate(members)]
    cluster, local, serving = (
        tuple(e for e, m in zip(endpoints, members, strict=True) if m[which]) for which in range(3)
    )
    return Backend(
        name=ServicePortName("default", f"s{number}", "", "TCP"),
        family="IPv4",
        cluster=cluster,
        local=local,
        has_any=bool(serving),
        serving=frozenset((e.address, e.port) for e in serving),
    )


# A table: by Service, how many frontends and which endpoints it has.
tables = st.dictionaries(st.integers(0, 5), st.tuples(st.integers(1, 3), memberships), max_size=6)
_Table = dict[int, tuple[int, list[tuple[bool, bool, bool]]]]


def frontends_of(table: _Table) -> PersistentMap[FrontendKey, Frontend]:
    found = {}
    for number, (count, endpoints) in table.items():
        shared = backend(number, endpoints)
        for port in range(count):
            made = Frontend(f"10.96.0.{number}", 80 + port, "TCP", "ClusterIP", shared)
            found[made.key] = made
    return PersistentMap(found)


@given(st.lists(tables, min_size=1, max_size=5), st.integers(0, 4))
def test_a_snapshot_and_changes_amount_to_the_table(history: list[_Table], joined: int) -> None:
    """For a worker that was there from the start, and for one that came later."""
    told: PersistentMap[FrontendKey, Frontend] = PersistentMap()
    workers = [told]
    for number, table in enumerate(map(frontends_of, history)):
        gone, new = changes(told, table)
        change = Table(number, number, None, [f.key for f in gone], *packed(new), [])
        workers = [_after(known, change) for known in workers]
        if number == joined:
            snapshot = Table(number, number, None, [], *packed(table.values()), [])
            workers.append(_after(PersistentMap(), snapshot))
        told = table
        for known in workers:
            assert dict(known) == dict(table)


def _after(
    known: PersistentMap[FrontendKey, Frontend], table: Table
) -> PersistentMap[FrontendKey, Frontend]:
    read = read_by_worker(payload(table))
    assert isinstance(read, Table)
    return applied(known, read.gone, unpacked(read.backends, read.frontends))


def test_a_worker_is_not_told_what_only_the_agent_needs() -> None:
    known = Endpoint("10.0.0.1", 80, zones=("a",), nodes=("b",), pod="web-1", node_name="node-1")
    whole = msgspec.structs.replace(WEB, cluster=(known,), local=())
    (told,) = unpacked(*packed([Frontend(*KEY, "ClusterIP", whole)]))
    assert told.backend.cluster == (Endpoint("10.0.0.1", 80),)
