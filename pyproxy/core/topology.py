"""Which endpoints of a Service port may be used: by readiness, traffic policy, zone and node hints.

kube-proxy v1.36 `topology.go` CategorizeEndpoints is the model (PARITY section 3): two lists, for
the traffic policies Cluster and Local, and whether anything usable exists anywhere.
"""

from typing import Literal, NamedTuple

from pyproxy.model.endpoint import Endpoint

Topology = Literal["same-node", "same-zone", "none"]


class Usable(NamedTuple):
    """cluster, local: the endpoints for each policy, empty where the policy is not used.

    has_any: a ready, or a serving and terminating, endpoint exists anywhere (3.7).
    """

    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]
    has_any: bool


def categorize(
    endpoints: tuple[Endpoint, ...],
    *,
    uses_cluster: bool,
    uses_local: bool,
    node_name: str,
    zone: str,
) -> Usable:
    """Split the endpoints of a Service port for a node in a zone ("" when not known)."""
    ready = tuple(e for e in endpoints if e.ready)
    # Only where no ready endpoint is left do the terminating ones that still serve step in (3.3,
    # 3.4). An endpoint that is neither ready nor terminating is never used (3.6).
    leaving = tuple(e for e in endpoints if not e.ready and e.serving and e.terminating)
    cluster: tuple[Endpoint, ...] = ()
    local: tuple[Endpoint, ...] = ()
    if uses_cluster:
        cluster = _in_topology(ready, node_name, zone) or leaving
    if uses_local:  # hints do not apply, and the fallback is decided on its own (3.4, 3.5)
        local = tuple(e for e in ready if e.is_local) or tuple(e for e in leaving if e.is_local)
    return Usable(cluster, local, bool(ready or leaving))


def _in_topology(ready: tuple[Endpoint, ...], node_name: str, zone: str) -> tuple[Endpoint, ...]:
    topology = topology_of(ready, node_name, zone)
    if topology == "same-node":
        return tuple(e for e in ready if node_name in e.nodes)
    if topology == "same-zone":
        return tuple(e for e in ready if zone in e.zones)
    return ready


def topology_of(ready: tuple[Endpoint, ...], node_name: str, zone: str) -> Topology:
    """Return which hints hold for the ready endpoints of a port (3.9, 3.10).

    One endpoint without a hint of a kind voids that kind: the control plane is in the middle of
    changing the hints. A kind that names nobody near is void too, so that there is always somebody.
    """
    if node_name and _hints_hold([e.nodes for e in ready], node_name):
        return "same-node"
    if zone and _hints_hold([e.zones for e in ready], zone):
        return "same-zone"
    return "none"


def _hints_hold(hints: list[tuple[str, ...]], here: str) -> bool:
    return all(hints) and any(here in names for names in hints)
