"""pyproxy's own configuration file: what kube-proxy's has no words for."""

from typing import Annotated, Literal

from pyproxy.config.durations import format_duration
from pyproxy.config.fields import Doc, Section
from pyproxy.config.kinds import (
    AUTO_WORKERS,
    HostNames,
    HostPort,
    PageAddress,
    Seconds,
    WorkerCount,
)
from pyproxy.model.ended import AccessMode
from pyproxy.model.options import (
    DEFAULT_OPTIONS,
    Balance,
    EjectionSettings,
    OnEndpointRemoved,
    ServiceOptions,
)

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
    check_pod_sources: Annotated[
        bool,
        Doc(
            "Whether datagrams to Services are dropped that have a pod's address as their source"
            " and came by another interface than the one that leads to that pod."
        ),
    ] = True


class Ejection(Section, frozen=True):
    """When endpoints that cannot be connected are left out for a while."""

    enabled: Annotated[bool, Doc("Whether they are; `pyproxy.io/ejection` of a Service.")] = True
    consecutive_failures: Annotated[
        int, Doc("Attempts to connect that fail in a row, until it is ejected.", at_least=1)
    ] = 3
    base_time_s: Annotated[
        Seconds, Doc("For how long; each further time in a row for twice as long.", more_than=0)
    ] = Seconds(10)
    max_time_s: Annotated[Seconds, Doc("And never for longer.", more_than=0)] = Seconds(300)
    max_percent: Annotated[
        int,
        Doc(
            "Of a Service port's endpoints that may be ejected at once; one may always be, unless"
            " it is the only one.",
            at_least=1,
            at_most=100,
        ),
    ] = 50


class AccessLog(Section, frozen=True):
    """What is written of connections and UDP flows that have ended."""

    mode: Annotated[
        AccessMode,
        Doc(
            "Which are written: none, those that ended with something wrong, these and one of so"
            " many of the rest, or all; docs/access-log.md tells more."
        ),
    ] = "errors"
    sample: Annotated[
        int, Doc("Of how many of the rest one is written, in mode `sampled`.", at_least=1)
    ] = 100
    records_per_second: Annotated[
        int,
        Doc(
            "The most records that the agent writes; others are left out, and counted.", at_least=1
        ),
    ] = 100
    format: Annotated[
        Literal["text", "json"] | None, Doc("Of a record, one a line; without it, logFormat.")
    ] = None
    path: Annotated[
        str | None,
        Doc("The file; it is opened anew when it was renamed. Without it, standard output."),
    ] = None


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
    balance: Annotated[
        Balance,
        Doc("How endpoints are chosen for new connections; `pyproxy.io/balance` of a Service."),
    ] = "least-connections"
    slow_start_s: Annotated[
        Seconds,
        Doc(
            "How long the share of a new endpoint grows before it is whole; 0: at once."
            " `pyproxy.io/slow-start` of a Service.",
            at_least=0,
        ),
    ] = Seconds(0)
    ejection: Ejection = Ejection()
    on_endpoint_removed: Annotated[
        OnEndpointRemoved,
        Doc(
            "TCP connections to an endpoint that serves no more, or has left the Service: `drain`"
            " closes them after drainTimeout, `close` at once, `keep` never."
            " `pyproxy.io/on-endpoint-removed` of a Service."
        ),
    ] = "drain"
    idle_timeout_s: Annotated[
        Seconds | None,
        Doc(
            "Closes TCP connections on which nothing moves for so long; without it, none."
            " `pyproxy.io/idle-timeout` of a Service.",
            more_than=0,
        ),
    ] = None
    max_connection_age_s: Annotated[
        Seconds | None,
        Doc(
            "Ends TCP connections of about this age, in a pause; without it, none."
            " `pyproxy.io/max-connection-age` of a Service.",
            more_than=0,
        ),
    ] = None
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
            " to be accepted. The last tenth is not for the Service that has the most.",
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
    control_socket: Annotated[
        str | None,
        Doc(
            "The Unix socket that `pyproxy status` and the like ask, for its owner only; without it"
            " /run/pyproxy/pyproxy.sock, or, where that may not be made, pyproxy.sock in"
            ' $XDG_RUNTIME_DIR. `""`: none.'
        ),
    ] = None
    ui_bind_address: Annotated[
        PageAddress,
        Doc(
            "Where the status page listens; it shows everything to everybody who can connect, and"
            ' changes nothing. `""`: nowhere.'
        ),
    ] = PageAddress(HostPort("127.0.0.1", 10290))
    ui_hosts: Annotated[
        HostNames,
        Doc(
            "Host names that the status page may be asked for by, beside localhost and the address"
            " that it listens on. Others are refused, as a web site's DNS could point here."
        ),
    ] = HostNames(())
    kubeproxy_metrics: Annotated[
        bool,
        Doc(
            "Whether /metrics has also the names of kube-proxy that mean something here, so that"
            " its dashboards work."
        ),
    ] = True
    metrics_detail: Annotated[
        Literal["service", "endpoint"],
        Doc("Whether /metrics also has series of each endpoint, or of each Service port only."),
    ] = "service"
    metrics_max_series: Annotated[
        int,
        Doc(
            "The most series of endpoints; each has 5. Further endpoints are left out, and counted"
            " in pyproxy_endpoints_without_series.",
            at_least=1,
        ),
    ] = 10_000
    access_log: AccessLog = AccessLog()
    log_format: Annotated[
        Literal["text", "json"] | None,
        Doc("Without it, logging.format of the KubeProxyConfiguration."),
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        Doc("Without it, as logging.verbosity of the KubeProxyConfiguration says."),
    ] = None


def service_options(config: PyproxyConfiguration) -> ServiceOptions:
    """The options of Services without annotations.

    The time for one attempt to connect stays None: the forwarder has it.
    """
    ejection = config.ejection
    options = ServiceOptions(
        balance=config.balance,
        slow_start_s=config.slow_start_s,
        ejects=ejection.enabled,
        ejection=EjectionSettings(
            consecutive_failures=ejection.consecutive_failures,
            base_time_s=ejection.base_time_s,
            max_time_s=ejection.max_time_s,
            max_percent=ejection.max_percent,
        ),
        on_endpoint_removed=config.on_endpoint_removed,
        idle_timeout_s=config.idle_timeout_s,
        max_connection_age_s=config.max_connection_age_s,
    )
    # The same object: then it takes no room in what workers are told of each Service.
    return DEFAULT_OPTIONS if options == DEFAULT_OPTIONS else options


def faults_of(config: PyproxyConfiguration) -> list[str]:
    """What is wrong with fields taken together, or with single words of a range."""
    faults = []
    if config.connect_deadline_s < config.connect_timeout_s:
        deadline, timeout = map(
            format_duration, (config.connect_deadline_s, config.connect_timeout_s)
        )
        faults.append(f"connectDeadline: {deadline!r} is less than connectTimeout, {timeout!r}")
    ejection = config.ejection
    if ejection.max_time_s < ejection.base_time_s:
        longest, base = map(format_duration, (ejection.max_time_s, ejection.base_time_s))
        faults.append(f"ejection.maxTime: {longest!r} is less than ejection.baseTime, {base!r}")
    mark = config.steering.mark
    if mark.bit_count() != 1:
        faults.append(f"steering.mark: {mark} is not one bit, such as 0x100000")
    table = config.steering.route_table
    if table in _RESERVED_TABLES:
        faults.append(
            f"steering.routeTable: {table} is the system's table {_RESERVED_TABLES[table]}"
        )
    return faults
