"""Counts of endpoints in an agent that forwards itself; workers send theirs."""

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyproxy.forward.forwarder import Forwarder
    from pyproxy.forward.records import Ends
    from pyproxy.metrics import Metrics


def tell_endpoints(ends: "Ends", metrics: "Metrics", forwarder: "Forwarder") -> None:
    """Tell what has come, when it is time again and somebody wants it."""
    series = metrics.endpoint_series
    if (
        series is not None
        and ends.endpoints is not None
        and ends.endpoints.is_due(time.monotonic())
    ):
        series.add(0, ends.endpoints.take(), forwarder.live.in_use(), metrics.knows)
