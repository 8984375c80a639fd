"""Which address of the API server to use: the configured one, or one that the cluster tells of.

The Service default/kubernetes has the API servers themselves as its endpoints. When the configured
address dies, they serve as fall-backs: the proxy must not depend on one address (perhaps the VIP
that it should serve itself). Sticky: an address is used until it cannot be reached.
"""

from pyproxy.model.addresses import join_host_port
from pyproxy.model.endpoint import EndpointSlice
from pyproxy.model.events import Applied, Deleted, Event, Listed, ObjectKey
from pyproxy.model.service import ServiceName

KUBERNETES = ServiceName("default", "kubernetes")


class ApiServers:
    """The addresses, in the order in which they are tried. URLs have no slash at their end."""

    def __init__(self) -> None:
        self._slices: dict[ObjectKey, EndpointSlice] = {}
        self._chosen = ""  # a fall-back; "" for the configured one

    def observe(self, event: Event) -> None:
        """Take in what the API server tells of itself."""
        match event:
            case Listed(resource="endpointslices", values=values):
                self._slices.clear()
                for value in values:
                    self._put(value)
            case Applied(resource="endpointslices", value=value):
                self._put(value)
            case Deleted(resource="endpointslices", key=key):
                self._slices.pop(key, None)
            case _:
                pass  # of another resource

    def _put(self, value: object) -> None:
        if isinstance(value, EndpointSlice) and value.service == KUBERNETES:
            self._slices[value.namespace, value.name] = value

    def current(self, configured: str) -> str:
        """The URL to use now; `configured` is that of the credentials."""
        return self._chosen or configured

    def unreachable(self, url: str, configured: str) -> str:
        """Note that a URL could not be reached; return the one to use next.

        Several watches fail on one address together: the first to tell moves them all on.
        """
        if url == self.current(configured):
            urls = [configured, *(known for known in self._fallbacks() if known != configured)]
            at = urls.index(url) if url in urls else -1
            following = urls[(at + 1) % len(urls)]
            self._chosen = "" if following == configured else following
        return self.current(configured)

    def _fallbacks(self) -> list[str]:
        return sorted(
            f"https://{join_host_port(endpoint.address, port.port)}"
            for value in self._slices.values()
            for endpoint in value.endpoints
            for port in value.ports
            if endpoint.ready and port.name == "https"
        )
