"""pyproxy's own configuration file: what kube-proxy's has no words for."""

from typing import Annotated, Literal

from pyproxy.config.durations import format_duration
from pyproxy.config.fields import Doc, Section
from pyproxy.config.kinds import AUTO_WORKERS, Seconds, WorkerCount

API_VERSION = "pyproxy.io/v1alpha1"
KIND = "PyproxyConfiguration"

_RESERVED_TABLES = {253: "default", 254: "main", 255: "local"}  # /etc/iproute2/rt_tables
_MAX_U32 = (1 << 32) - 1


class Steering(Section, frozen=True):
    """What steer: nft puts into the kernel. Change it where another program uses the same."""

    mark: Annotated[
        int,
        Doc(
            "The bit of the packet mark that says that a packet is for this host's sockets; the"
            " other bits are left alone.",
            at_least=1,
            at_most=_MAX_U32,
        ),
    ] = 0x100000
    route_table: Annotated[
        int,
        Doc("The routing table that delivers marked packets here.", at_least=1, at_most=_MAX_U32),
    ] = 10249
    # The rule must come after the one of the local table (0) and before that of main (32766).
    rule_priority: Annotated[
        int, Doc("The priority of the rule that names it.", at_least=1, at_most=32765)
    ] = 10249


class PyproxyConfiguration(Section, frozen=True):
    """The document. A field that is null has its default."""

    steer: Annotated[
        Literal["auto", "none", "nft"],
        Doc(
            "How packets come to pyproxy. `none`: it listens on the addresses that this host has."
            " `nft`: an nftables table and a policy route bring it those of all Services."
            " `auto`: `nft` where the process has the capability NET_ADMIN and the command nft."
        ),
    ] = "auto"
    steering: Steering = Steering()
    source_address: Annotated[
        Literal["auto", "node"],
        Doc(
            "Whose address endpoints see. `auto`: the client's, wherever kube-proxy keeps it and"
            " the reply can come back. `node`: always the node's."
        ),
    ] = "auto"
    service_proxy_name: Annotated[
        str | None,
        Doc(
            "Serve the Services with this value of the label"
            " `service.kubernetes.io/service-proxy-name`; without it, those without the label."
        ),
    ] = None
    workers: Annotated[
        WorkerCount,
        Doc(
            "Processes that forward, beside the agent that watches the cluster. `auto`: one for"
            " each core that it may use, at most 8. 0: the agent forwards itself."
        ),
    ] = AUTO_WORKERS
    connect_timeout_s: Annotated[
        Seconds, Doc("For one attempt to connect to an endpoint.", more_than=0)
    ] = Seconds(1)
    connect_deadline_s: Annotated[
        Seconds, Doc("For all attempts of one connection.", more_than=0)
    ] = Seconds(5)
    drain_timeout_s: Annotated[
        Seconds, Doc("How long live connections may go on once it is stopped.", at_least=0)
    ] = Seconds(30)
    max_connections: Annotated[
        int,
        Doc(
            "Live TCP connections of the node; each worker may have its share. Further clients wait"
            " to be accepted.",
            at_least=1,
        ),
    ] = 65_536
    max_udp_flows: Annotated[
        int,
        Doc(
            "UDP flows of the node; each worker may have its share. A further one ends the one that"
            " is idle for longest.",
            at_least=1,
        ),
    ] = 16_384
    log_format: Annotated[
        Literal["text", "json"] | None,
        Doc("Without it, logging.format of the KubeProxyConfiguration."),
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        Doc("Without it, as logging.verbosity of the KubeProxyConfiguration says."),
    ] = None


def faults_of(config: PyproxyConfiguration) -> list[str]:
    """What is wrong with fields taken together, or with single words of a range."""
    faults = []
    if config.connect_deadline_s < config.connect_timeout_s:
        deadline, timeout = map(
            format_duration, (config.connect_deadline_s, config.connect_timeout_s)
        )
        faults.append(f"connectDeadline: {deadline!r} is less than connectTimeout, {timeout!r}")
    mark = config.steering.mark
    if mark.bit_count() != 1:
        faults.append(f"steering.mark: {mark} is not one bit, such as 0x100000")
    table = config.steering.route_table
    if table in _RESERVED_TABLES:
        faults.append(
            f"steering.routeTable: {table} is the system's table {_RESERVED_TABLES[table]}"
        )
    return faults
