"""The data plane of an agent: workers, or a forwarder in its own process."""

import random
import time
from functools import partial

import msgspec

from pyproxy.app.access_log import AccessLog
from pyproxy.app.agent_settings import AgentSettings
from pyproxy.app.endpoint_counts import tell_endpoints
from pyproxy.app.forwarding import Forwarding, InProcess
from pyproxy.app.worker_settings import WorkersSettings
from pyproxy.app.workers import Workers
from pyproxy.core.balancer import Balancer
from pyproxy.forward.forwarder import Forwarder
from pyproxy.forward.records import Ends, EndsSettings
from pyproxy.metrics import Metrics
from pyproxy.metrics.endpoint_series import EndpointSeries


def data_plane(settings: AgentSettings, metrics: Metrics, access_log: AccessLog) -> Forwarding:
    """Return what forwards, not yet started; it counts in `metrics` and tells the log of ends."""
    ends_settings = EndsSettings(
        access=settings.access_log.rules, counts_endpoints=settings.endpoint_series > 0
    )
    if settings.endpoint_series:
        metrics.endpoint_series = EndpointSeries(settings.endpoint_series)
    if settings.workers:
        workers = WorkersSettings(
            count=settings.workers,
            forward=settings.forward,
            ends=ends_settings,
            drain_timeout_s=settings.drain_timeout_s,
            log_format=settings.log_format,
            patience_s=settings.worker_patience_s,
        )
        return Workers(workers, metrics, access_log.add)
    ends = Ends(ends_settings, random.random, time.monotonic)
    access_log.take = ends.take
    forward = msgspec.structs.replace(settings.forward, reuse_port=settings.steer is not None)
    forwarder = Forwarder(forward, Balancer(random.random), metrics, time.monotonic, ends=ends)
    return InProcess(forwarder, partial(tell_endpoints, ends, metrics))
