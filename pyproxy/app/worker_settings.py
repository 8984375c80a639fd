"""What workers are set to: all of them together, and each by its Hello."""

from typing import Literal

import msgspec

from pyproxy.app.worker_wire import Hello
from pyproxy.forward.records import EndsSettings
from pyproxy.forward.settings import ForwardSettings


class WorkersSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How many workers, and what each is set to. `patience_s`: WorkerProcess says what for."""

    count: int
    forward: ForwardSettings
    ends: EndsSettings = EndsSettings()
    drain_timeout_s: float = 30.0
    log_format: Literal["text", "json"] = "text"
    patience_s: float = 10.0


def hello_for(settings: WorkersSettings, number: int, counts_fd: int, log_level: int) -> Hello:
    """The first message to a worker."""
    return Hello(
        number=number,
        processes=settings.count,
        counts_fd=counts_fd,
        forward=share_of(settings.forward, settings.count),
        ends=settings.ends,
        drain_timeout_s=settings.drain_timeout_s,
        log_level=log_level,
        log_format=settings.log_format,
    )


def share_of(settings: ForwardSettings, workers: int) -> ForwardSettings:
    """What one of so many workers is set to: the limits are the node's, the sockets are shared."""
    return msgspec.structs.replace(
        settings,
        reuse_port=True,
        max_connections=-(-settings.max_connections // workers),
        max_udp_flows=-(-settings.max_udp_flows // workers),
    )
