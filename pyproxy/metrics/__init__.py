"""What is counted, and how a scrape shows it.

The hot paths add to plain integers of `counters`; one `Metrics` of `state` holds those of a
process; `collect` makes Prometheus families of them, and `kubeproxy` those of kube-proxy's names.
"""

from pyproxy.metrics.collect import TO_CLIENT, TO_ENDPOINT, registry
from pyproxy.metrics.counters import GAUGES, ServicePortCounters, SteeringCounts
from pyproxy.metrics.state import DATA_PLANE, Metrics, Vitals

__all__ = [
    "DATA_PLANE",
    "GAUGES",
    "TO_CLIENT",
    "TO_ENDPOINT",
    "Metrics",
    "ServicePortCounters",
    "SteeringCounts",
    "Vitals",
    "registry",
]
