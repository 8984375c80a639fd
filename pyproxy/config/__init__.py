"""What pyproxy is set to: the values, and the configuration file that gives them."""

from pyproxy.config.configuration import UNREADABLE_YAML, Configuration, parse_config
from pyproxy.config.kinds import HostPort
from pyproxy.config.kubeproxy import KubeProxyConfiguration
from pyproxy.config.own import PyproxyConfiguration
from pyproxy.config.proxy import (
    DetectLocalMode,
    NodePortAddresses,
    ProxyConfig,
    parse_cluster_cidr,
    parse_node_port_addresses,
)

__all__ = [
    "UNREADABLE_YAML",
    "Configuration",
    "DetectLocalMode",
    "HostPort",
    "KubeProxyConfiguration",
    "NodePortAddresses",
    "ProxyConfig",
    "PyproxyConfiguration",
    "parse_cluster_cidr",
    "parse_config",
    "parse_node_port_addresses",
]
