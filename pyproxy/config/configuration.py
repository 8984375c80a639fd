"""The configuration as a whole: one file of at most two documents, and what follows from them.

Parsing takes text and reads no file. All faults of a file are reported at once.
"""

from typing import Any, Literal

import msgspec
import yaml

from pyproxy.config import kubeproxy, own
from pyproxy.config.fields import Reader, write
from pyproxy.config.kinds import HealthAddress, HostPort, MetricsAddress
from pyproxy.config.kubeproxy import KubeProxyConfiguration
from pyproxy.config.own import AccessLog, PyproxyConfiguration
from pyproxy.config.proxy import ProxyConfig
from pyproxy.errors import ConfigError

# What PyYAML raises for a text that it cannot read: its own errors, and those that escape from its
# constructors, as for `!!int x`, `!!int`, `!!timestamp x`, or nesting without end.
UNREADABLE_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError)

_DEBUG_VERBOSITY = 4  # klog: 4 is "debug level verbosity" (Kubernetes' logging conventions)

_Documents = dict[tuple[Any, Any], dict[str, Any]]
_KUBE_PROXY = (kubeproxy.API_VERSION, kubeproxy.KIND)
_OWN = (own.API_VERSION, own.KIND)


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """Both documents, and what follows from them. Where they say nothing, defaults hold."""

    kube_proxy: KubeProxyConfiguration = KubeProxyConfiguration()
    pyproxy: PyproxyConfiguration = PyproxyConfiguration()

    @property
    def proxy(self) -> ProxyConfig:
        """What the decisions depend on."""
        written = self.kube_proxy
        bind = written.bind_address
        return ProxyConfig(
            node_name=written.hostname_override,
            proxy_name=self.pyproxy.service_proxy_name,
            node_port_addresses=written.node_port_addresses,
            cluster_cidr=written.cluster_cidr,
            detect_local_mode=written.detect_local_mode,
            masquerade_all=kubeproxy.masquerades_all(written),
            localhost_node_ports=written.iptables.localhost_node_ports,
            options=own.service_options(self.pyproxy),
            bind_address="" if bind in {"0.0.0.0", "::"} else bind,  # noqa: S104  nothing is bound
        )

    @property
    def kubeconfig(self) -> str | None:
        """The kubeconfig file that is named."""
        return self.kube_proxy.client_connection.kubeconfig or None

    @property
    def health(self) -> HostPort:
        """Where the health port listens (12.11)."""
        wildcard = "::" if self._is_ipv6 else "0.0.0.0"  # noqa: S104  load balancers ask it
        return self.kube_proxy.healthz_bind_address or HostPort(wildcard, 10256)

    @property
    def metrics(self) -> HostPort:
        """Where the metrics port listens (14.1)."""
        loopback = "::1" if self._is_ipv6 else "127.0.0.1"
        return self.kube_proxy.metrics_bind_address or HostPort(loopback, 10249)

    @property
    def _is_ipv6(self) -> bool:
        return ":" in self.kube_proxy.bind_address

    @property
    def sync_period_s(self) -> float:
        """How long a failed update waits to be tried again."""
        return kubeproxy.mode_section(self.kube_proxy).sync_period_s

    @property
    def min_sync_period_s(self) -> float:
        """The least time between two updates."""
        return kubeproxy.mode_section(self.kube_proxy).min_sync_period_s

    @property
    def log_format(self) -> Literal["text", "json"]:
        """How the log is written."""
        return self.pyproxy.log_format or self.kube_proxy.logging.format

    @property
    def access_log(self) -> AccessLog:
        """What is written of connections, in the log's format unless it says another."""
        asked = self.pyproxy.access_log
        return msgspec.structs.replace(asked, format=asked.format or self.log_format)

    @property
    def log_level(self) -> Literal["debug", "info", "warning", "error"]:
        """From which level on the log is written."""
        is_verbose = self.kube_proxy.logging.verbosity >= _DEBUG_VERBOSITY
        return self.pyproxy.log_level or ("debug" if is_verbose else "info")

    def documents(self) -> list[dict[str, Any]]:
        """Return both documents as plain data, with every default filled in."""
        kube_proxy = msgspec.structs.replace(
            self.kube_proxy,
            healthz_bind_address=HealthAddress(self.health),
            metrics_bind_address=MetricsAddress(self.metrics),
        )
        pyproxy = msgspec.structs.replace(
            self.pyproxy,
            log_format=self.log_format,
            log_level=self.log_level,
            access_log=self.access_log,
        )
        return [_document(_KUBE_PROXY, kube_proxy), _document(_OWN, pyproxy)]


def _document(
    kind: tuple[str, str], section: KubeProxyConfiguration | PyproxyConfiguration
) -> dict[str, Any]:
    return {"apiVersion": kind[0], "kind": kind[1], **write(section)}


def parse_config(text: str) -> tuple[Configuration, tuple[str, ...]]:
    """Parse a configuration file's text; return it, and a line for each field without effect.

    Raises ConfigError with every fault in it.
    """
    documents, faults = _documents(text)
    kube_proxy_reader = Reader(kubeproxy.NO_EFFECT, is_zero_unset=True)
    kube_proxy = kube_proxy_reader.section(KubeProxyConfiguration, documents.get(_KUBE_PROXY, {}))
    own_reader = Reader()
    pyproxy = own_reader.section(PyproxyConfiguration, documents.get(_OWN, {}))
    faults += kube_proxy_reader.faults + kubeproxy.faults_of(kube_proxy)
    faults += own_reader.faults + own.faults_of(pyproxy)
    if faults:
        raise ConfigError(*faults)
    unused = sorted(kube_proxy_reader.unused) + sorted(own_reader.unused)
    return Configuration(kube_proxy=kube_proxy, pyproxy=pyproxy), tuple(unused)


def _documents(text: str) -> tuple[_Documents, list[str]]:
    """The documents of a file by apiVersion and kind, and what is wrong with the others."""
    try:
        loaded = [found for found in yaml.safe_load_all(text) if found is not None]
    except UNREADABLE_YAML as fault:
        raise ConfigError(f"not YAML: {' '.join(str(fault).split())}") from fault
    documents: _Documents = {}
    faults = [] if loaded else [f"the file is empty; it takes a {_names()}"]
    for found in loaded:
        if not isinstance(found, dict):
            faults.append(f"not a {_names()}: it is no mapping")
            continue
        fields = dict(found)
        key = (fields.pop("apiVersion", None), fields.pop("kind", None))
        if key not in (_KUBE_PROXY, _OWN):  # not a set: what was written may be unhashable
            faults.append(f"apiVersion {key[0]!r} and kind {key[1]!r} are not a {_names()}")
        elif key in documents:
            faults.append(f"more than one document is a {key[1]}")
        else:
            documents[key] = fields
    return documents, faults


def _names() -> str:
    return " or a ".join(f"{version} {kind}" for version, kind in (_KUBE_PROXY, _OWN))
