"""What the control socket's answers are made from: an agent's parts, and what it was set to."""

from collections.abc import Callable
from dataclasses import dataclass

from pyproxy.app.forwarding import Forwarding
from pyproxy.app.recent_errors import RecentErrors
from pyproxy.app.succession import Succession
from pyproxy.core.health import ProxyHealth
from pyproxy.core.store import Store
from pyproxy.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything is read as it is at the moment of a request; nothing here is changed by reading.

    source: `manifests` or `api`. steering: `nft` or `none`. workers: how many there should be.
    started_s: Unix time. is_serving: whether a first table is served. drain: begin to. succession:
    for a newer agent that takes over.
    """

    store: Store
    forwarding: Forwarding
    metrics: Metrics
    health: ProxyHealth
    errors: RecentErrors
    source: str
    steering: str
    workers: int
    started_s: float
    is_serving: Callable[[], bool]
    drain: Callable[[], None]
    succession: Succession
