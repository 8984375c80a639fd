"""Which Services are proxied at all, and why the others are not (PARITY 1.2 to 1.5)."""

from typing import Literal

from pyproxy.model.endpoint import EndpointSlice
from pyproxy.model.service import Service

NotProxied = Literal["ExternalName", "Headless", "OtherProxy", "NoClusterIP"]


def why_not_proxied(service: Service, proxy_name: str | None = None) -> NotProxied | None:
    """Return why a Service is not proxied here, or None when it is.

    proxy_name: serve only Services with this service-proxy-name label; None: only those without
    the label. Any value of it, even an empty one, hands the Service to somebody else (1.2).
    """
    if service.type == "ExternalName":
        return "ExternalName"  # even if it carries a ClusterIP
    if service.cluster_ip == "None":
        return "Headless"
    if service.proxy_name != proxy_name:
        return "OtherProxy"
    if not service.cluster_ips:
        return "NoClusterIP"
    return None


def feeds_endpoints(endpoint_slice: EndpointSlice) -> bool:
    """Whether a slice's endpoints count (1.3, 2.1): it names a Service that is not headless."""
    return bool(endpoint_slice.service_name) and not endpoint_slice.headless
