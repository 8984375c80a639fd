"""The counts of one Service port, and those of steering: plain integers, that anybody may add to.

Handed out once for each frontend and kept by who counts, so that no label is looked up for a
connection or a chunk of bytes.
"""

from collections import Counter

from pyproxy.metrics.histogram import CONNECT_BOUNDS_S, DURATION_BOUNDS_S, empty

# Of ServicePortCounters, what can go down: it ends with the process that counts it.
GAUGES = ("active", "ejected")


class ServicePortCounters:
    """The counts of one Service port, over all of its frontends.

    closed: by close reason (pyproxy.model.reasons.CloseReason).
    attempts: connect attempts by result (pyproxy.model.reasons.ConnectResult).
    dropped: datagrams that were not passed on (pyproxy.model.reasons.DatagramDrop).
    retries: attempts with another endpoint after one had failed.
    active: connections, or UDP flows, that are open now.
    ejections: of endpoints that could not be connected. ejected: those that are left out now, as
    each process sees it; looked at now and then.
    connect_times, durations: histograms (pyproxy.metrics.histogram) of TCP connections: until an
    endpoint was connected, retries included; and of those that had one, until the end.
    """

    __slots__ = (
        "active",
        "attempts",
        "bytes_to_client",
        "bytes_to_endpoint",
        "closed",
        "connect_times",
        "datagrams_to_client",
        "datagrams_to_endpoint",
        "dropped",
        "durations",
        "ejected",
        "ejections",
        "flows_moved",
        "opened",
        "retries",
    )

    def __init__(self) -> None:
        self.opened = 0
        self.active = 0
        self.closed: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()
        self.retries = 0
        self.bytes_to_endpoint = 0
        self.bytes_to_client = 0
        self.datagrams_to_endpoint = 0
        self.datagrams_to_client = 0
        self.flows_moved = 0
        self.dropped: Counter[str] = Counter()
        self.ejections = 0
        self.ejected = 0
        self.connect_times = empty(CONNECT_BOUNDS_S)
        self.durations = empty(DURATION_BOUNDS_S)


class SteeringCounts:
    """What steering did: pyproxy.steer.reconciler.Steering says what each means."""

    __slots__ = ("failures", "operations", "repairs", "transactions")

    def __init__(self) -> None:
        self.transactions = 0
        self.operations = 0
        self.repairs = 0
        self.failures = 0
