"""kube-proxy's own configuration file, as far as it means something here (PARITY section 19)."""

from typing import Annotated, Literal

from pyproxy.config.durations import format_duration
from pyproxy.config.fields import Doc, NoEffect, Section
from pyproxy.config.kinds import Address, HealthAddress, MetricsAddress, NodeName, Seconds
from pyproxy.config.proxy import DetectLocalMode, NodePortAddresses
from pyproxy.model.addresses import Cidr

API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"
KIND = "KubeProxyConfiguration"

_SYNC = Doc(
    "How long an update that failed waits to be tried again; one that waits for twice as long makes"
    " the proxy unhealthy.",
    more_than=0,
)
_MIN_SYNC = Doc(
    "The least time between two updates. kube-proxy's default of 1s spares the kernel; here an"
    " update costs little.",
    at_least=0,
)
_MASQUERADE = Doc("Give every connection to a ClusterIP the node's address as its source.")


class ClientConnection(Section, frozen=True):
    """The API server."""

    kubeconfig: Annotated[str, Doc("The kubeconfig file; without one, as `--kubeconfig` says.")] = (
        ""
    )


class IptablesMode(Section, frozen=True):
    """What holds in mode iptables, which is also the mode of a file that names none."""

    sync_period_s: Annotated[Seconds, _SYNC] = Seconds(30)
    min_sync_period_s: Annotated[Seconds, _MIN_SYNC] = Seconds(0.05)
    masquerade_all: Annotated[bool, _MASQUERADE] = False
    localhost_node_ports: Annotated[
        bool, Doc("Serve node ports on loopback addresses too, where nodePortAddresses has them.")
    ] = True


class NftablesMode(Section, frozen=True):
    """What holds in mode nftables."""

    sync_period_s: Annotated[Seconds, _SYNC] = Seconds(30)
    min_sync_period_s: Annotated[Seconds, _MIN_SYNC] = Seconds(0.05)
    masquerade_all: Annotated[bool, _MASQUERADE] = False


class IpvsMode(Section, frozen=True):
    """What holds in mode ipvs."""

    sync_period_s: Annotated[Seconds, _SYNC] = Seconds(30)
    min_sync_period_s: Annotated[Seconds, _MIN_SYNC] = Seconds(0.05)


class DetectLocal(Section, frozen=True):
    """What the modes of detectLocalMode that go by network interface need."""

    bridge_interface: Annotated[
        str,
        Doc(
            "Required with BridgeInterface. The node's podCIDRs stand for the interface: an address"
            " does not tell it."
        ),
    ] = ""
    interface_name_prefix: Annotated[str, Doc("Likewise with InterfaceNamePrefix.")] = ""


class Conntrack(Section, frozen=True):
    """UDP flows. pyproxy needs no connection tracking: these are its own time-outs."""

    udp_timeout_s: Annotated[
        Seconds, Doc("When a UDP flow without an answer ends.", at_least=0)
    ] = Seconds(30)
    udp_stream_timeout_s: Annotated[
        Seconds, Doc("When a UDP flow that was answered ends.", at_least=0)
    ] = Seconds(120)


class Logging(Section, frozen=True):
    """The log."""

    format: Annotated[Literal["text", "json"], Doc("Lines for people, or for machines.")] = "text"
    verbosity: Annotated[int, Doc("From 4 on, the log level is debug.", at_least=0)] = 0


class KubeProxyConfiguration(Section, frozen=True):
    """The document. A field that is null, empty or 0s has its default."""

    client_connection: ClientConnection = ClientConnection()
    hostname_override: Annotated[NodeName, Doc("The node's name; else this host's name.")] = (
        NodeName("")
    )
    bind_address: Annotated[
        Address,
        Doc(
            "The node's primary address, in place of the Node's own; nothing is bound to it. Its"
            " family is that of the two addresses below where they are not set."
        ),
    ] = Address("0.0.0.0")  # noqa: S104  nothing is bound
    healthz_bind_address: Annotated[
        HealthAddress | None, Doc("Where /healthz and /livez are answered.")
    ] = None
    metrics_bind_address: Annotated[MetricsAddress | None, Doc("Where /metrics is answered.")] = (
        None
    )
    mode: Annotated[
        Literal["", "iptables", "ipvs", "nftables"],
        Doc("Which of the next three sections counts; pyproxy itself is none of these modes."),
    ] = ""
    iptables: IptablesMode = IptablesMode()
    nftables: NftablesMode = NftablesMode()
    ipvs: IpvsMode = IpvsMode()
    masquerade_all: Annotated[
        bool, Doc("pyproxy's: as masqueradeAll of the mode's section, whatever the mode.")
    ] = False
    detect_local_mode: Annotated[DetectLocalMode, Doc("How pods are told from other clients.")] = (
        "ClusterCIDR"
    )
    detect_local: DetectLocal = DetectLocal()
    cluster_cidr: Annotated[
        tuple[Cidr, ...], Doc("The pods' networks, at most one of each family.")
    ] = ()
    node_port_addresses: Annotated[
        NodePortAddresses,
        Doc(
            "CIDRs, or `primary`: at which of the node's addresses node ports are served; at all of"
            " them without it. pyproxy also takes `localhost`, beside either."
        ),
    ] = NodePortAddresses()
    conntrack: Conntrack = Conntrack()
    logging: Logging = Logging()


_NO_KERNEL_RULES = "pyproxy forwards connections itself, and needs no such kernel setting"
_IPVS = "pyproxy does not use IPVS"
_LOG = "pyproxy's log has no such setting"
_WINDOWS = "pyproxy runs on Linux"
_CLIENT = "pyproxy only lists and watches, in JSON"
_MARK_BIT = "pyproxy marks packets with a value: steering.mark of a PyproxyConfiguration"
_Bit = Annotated[int, Doc("", at_least=0, at_most=31)]
_Count = Annotated[int, Doc("", at_least=0)]
_Time = Annotated[Seconds, Doc("", at_least=0)]

NO_EFFECT: dict[str, NoEffect] = {
    "featureGates": NoEffect(dict, "pyproxy has no feature gates"),
    "clientConnection.acceptContentTypes": NoEffect(str, _CLIENT),
    "clientConnection.contentType": NoEffect(str, _CLIENT),
    "clientConnection.qps": NoEffect(float, _CLIENT),
    "clientConnection.burst": NoEffect(_Count, _CLIENT),
    "bindAddressHardFail": NoEffect(bool, "an HTTP port that is taken is tried again"),
    "enableProfiling": NoEffect(bool, "pyproxy has no profiling port"),
    "showHiddenMetricsForVersion": NoEffect(str, "pyproxy hides no metrics"),
    "configSyncPeriod": NoEffect(
        Annotated[Seconds, Doc("", more_than=0)], "a watch misses nothing, so it needs no resync"
    ),
    "oomScoreAdj": NoEffect(
        Annotated[int, Doc("", at_least=-1000, at_most=1000)], "the kubelet sets it for the pod"
    ),
    "portRange": NoEffect(str, "kube-proxy itself has not used it since 1.26"),
    "windowsRunAsService": NoEffect(bool, _WINDOWS),
    "winkernel": NoEffect(dict, _WINDOWS),
    "iptables.masqueradeBit": NoEffect(_Bit, _MARK_BIT),
    "nftables.masqueradeBit": NoEffect(_Bit, _MARK_BIT),
    "ipvs.scheduler": NoEffect(str, _IPVS),
    "ipvs.excludeCIDRs": NoEffect(list, _IPVS),
    "ipvs.strictARP": NoEffect(bool, _IPVS),
    "ipvs.tcpTimeout": NoEffect(_Time, _IPVS),
    "ipvs.tcpFinTimeout": NoEffect(_Time, _IPVS),
    "ipvs.udpTimeout": NoEffect(_Time, _IPVS),
    "conntrack.maxPerCore": NoEffect(_Count, _NO_KERNEL_RULES),
    "conntrack.min": NoEffect(_Count, _NO_KERNEL_RULES),
    "conntrack.tcpEstablishedTimeout": NoEffect(_Time, _NO_KERNEL_RULES),
    "conntrack.tcpCloseWaitTimeout": NoEffect(_Time, _NO_KERNEL_RULES),
    "conntrack.tcpBeLiberal": NoEffect(bool, _NO_KERNEL_RULES),
    "logging.flushFrequency": NoEffect(object, _LOG),
    "logging.vmodule": NoEffect(object, _LOG),
    "logging.options": NoEffect(dict, _LOG),
}


def mode_section(config: KubeProxyConfiguration) -> IptablesMode | NftablesMode | IpvsMode:
    """The section that supplies the periods (19.1); a file without a mode means iptables."""
    if config.mode in {"nftables", "ipvs"}:
        section: NftablesMode | IpvsMode = getattr(config, config.mode)
        return section
    return config.iptables


def masquerades_all(config: KubeProxyConfiguration) -> bool:
    """The mode's own section counts (19.1); without one that has the field, either of the two."""
    by_mode = {
        "iptables": config.iptables.masquerade_all,
        "nftables": config.nftables.masquerade_all,
    }
    return config.masquerade_all or by_mode.get(config.mode, any(by_mode.values()))


def faults_of(config: KubeProxyConfiguration) -> list[str]:
    """What is wrong with fields taken together (19.2); each alone has been read already."""
    faults = []
    section, name = mode_section(config), config.mode or "iptables"
    if section.min_sync_period_s > section.sync_period_s:
        least, most = map(format_duration, (section.min_sync_period_s, section.sync_period_s))
        faults.append(f"{name}.minSyncPeriod: {least!r} is more than syncPeriod, {most!r}")
    detect = config.detect_local
    needed = {
        "BridgeInterface": ("bridgeInterface", detect.bridge_interface),
        "InterfaceNamePrefix": ("interfaceNamePrefix", detect.interface_name_prefix),
    }
    if config.detect_local_mode in needed:
        field, value = needed[config.detect_local_mode]
        if not value:
            mode = config.detect_local_mode
            faults.append(f"detectLocal.{field}: {value!r} is no name; {mode} needs one")
    return faults
