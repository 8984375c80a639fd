"""The closed vocabularies: why a connection ended, how a connect attempt went.

Used as they are by metrics, logs and `explain`. Adding a word is a change that users see.
"""

from typing import Literal

CloseReason = Literal[
    "finished",  # both directions ended in order
    "client_reset",  # the client reset the connection, or its host vanished
    "endpoint_reset",  # the endpoint did
    "client_gone",  # the client went away before an endpoint was connected
    "no_endpoint",  # refused: nothing usable behind the Service for this client
    "not_allowed",  # refused: the source ranges leave this client out
    "connect_failed",  # refused: no endpoint could be connected within the deadline
    "over_limit",  # refused: the Service has as many connections as it allows
    "over_budget",  # refused: there is little room left, and this Service has the most connections
    "endpoint_removed",  # its endpoint had left the Service, or served no more
    "idle",  # no byte for the Service's idle time-out
    "aged",  # ended in order at the Service's greatest age of a connection
    "drained",  # cut at the end of the drain time, when pyproxy stopped
    "worker_lost",  # the worker process that held it died
    "error",  # a fault of pyproxy itself; the log has it
]

ConnectResult = Literal[
    "ok",
    "refused",  # the endpoint's host answered that nothing listens there
    "timeout",  # no answer within the attempt's time
    "unreachable",  # no route, or an ICMP error on the way
    "loop",  # not tried: the endpoint leads back to this frontend
    "not_found",  # through the API server: the endpoint's pod is gone
    "forbidden",  # through the API server: it does not let us forward ports to pods
    "error",  # this host, or the API server, could not try: no descriptor, no port, overloaded
]

FlowEnd = Literal[
    "idle",  # no datagram for the idle time-out
    "evicted",  # the flow table was full, and this flow the longest idle
    "drained",  # pyproxy stopped
    "service_gone",  # nothing serves this address any more
    "worker_lost",  # the worker process that held it died
]

DatagramDrop = Literal[
    "no_endpoint",  # nothing usable behind the Service for this client
    "not_allowed",  # the source ranges leave this client out
    "connect_failed",  # every endpoint that may be tried refuses datagrams, or cannot be reached
    "service_gone",  # nothing serves this address any more
    "exhausted",  # this host is out of descriptors or memory
    "buffer_full",  # the kernel's buffer of what waits to be sent is full
    "too_long",  # it does not fit into a packet of the route
    "error",  # anything else that the kernel said of sending it
]

# Ends that are nobody's fault here or at the endpoint: all went well, or it was asked for.
ORDINARY_ENDS: frozenset[str] = frozenset(
    {"finished", "client_reset", "client_gone", "idle", "aged", "drained", "endpoint_removed"}
    | {"evicted", "service_gone"}  # of flows
)
