"""What is counted, and how a scrape shows it.

The hot paths add to plain integers of `counters`; one `Metrics` of `state` holds those of a
process; `collect` makes Prometheus families of them, `service_ports` and
`endpoints` write those with many series, and `kubeproxy` has kube-proxy's names; `exposition` puts
a scrape together.
"""

from pyproxy.metrics.api_requests import NO_ANSWER, ApiRequests
from pyproxy.metrics.counters import GAUGES, ServicePortCounters, SteeringCounts
from pyproxy.metrics.exposition import Exposition
from pyproxy.metrics.service_ports import TO_CLIENT, TO_ENDPOINT
from pyproxy.metrics.state import DATA_PLANE, Metrics, Vitals

__all__ = [
    "DATA_PLANE",
    "GAUGES",
    "NO_ANSWER",
    "TO_CLIENT",
    "TO_ENDPOINT",
    "ApiRequests",
    "Exposition",
    "Metrics",
    "ServicePortCounters",
    "SteeringCounts",
    "Vitals",
]
