"""What an agent is set to."""

from typing import Any, Literal

import msgspec

from pyproxy.app.access_log import AccessLogSettings
from pyproxy.config import HostPort, ProxyConfig
from pyproxy.forward.settings import ForwardSettings
from pyproxy.ops import web
from pyproxy.source.apiserver import ApiServerSettings
from pyproxy.steer.reconciler import SteerSettings


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent is set to. Times are seconds.

    config_file: a change of it starts the agent anew (20.2). configz: what /configz answers.
    manifests: files and directories to read; empty: the API server is watched, as `api` says.
    steer: how packets for addresses that this host does not have are brought here; None: not at
    all.
    workers: processes that forward; 0: this one does. worker_patience_s: how long one may take to
    answer before it is killed, and replaced.
    access_log: what is written of connections. endpoint_series: the most series of endpoints; 0:
    there are none.
    metrics, health, page: where their HTTP ports listen; page: None for none, and page_hosts are
    further names that it may be asked for by. kubeproxy_metrics: whether kube-proxy's names
    are shown as well. control_sockets: the places for the control
    socket, of which the first is taken that may be used; empty: there is none. http_retry_s: until
    one that is taken is tried again.
    min_sync_period_s: between two updates of the forwarder. sync_period_s: until a failed one is
    tried again, and half the time after which a waiting one makes the proxy unhealthy.
    """

    proxy: ProxyConfig
    config_file: str | None = None
    configz: dict[str, Any] = {}
    manifests: tuple[str, ...] = ()
    api: ApiServerSettings = ApiServerSettings()
    forward: ForwardSettings = ForwardSettings()
    workers: int = 0
    worker_patience_s: float = 10.0
    log_format: Literal["text", "json"] = "text"
    access_log: AccessLogSettings = AccessLogSettings()
    endpoint_series: int = 0
    steer: SteerSettings | None = None
    metrics: HostPort = HostPort("127.0.0.1", 10249)
    health: HostPort = HostPort("0.0.0.0", 10256)  # noqa: S104  probes and load balancers ask it
    page: HostPort | None = None
    page_hosts: tuple[str, ...] = ()
    control_sockets: tuple[str, ...] = ()
    kubeproxy_metrics: bool = True
    http_retry_s: float = web.BIND_RETRY_S
    drain_timeout_s: float = 30.0
    min_sync_period_s: float = 0.05
    sync_period_s: float = 30.0
