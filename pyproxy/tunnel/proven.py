"""Which ports of pods have answered: there, no refusal is waited for."""

from collections import OrderedDict

from pyproxy.tunnel.target import PodPort

# A few hundred bytes each. What is forgotten costs one short wait more.
_MAX_PORTS = 10_000


class ProvenPorts:
    """The ports that have sent a byte, and have not failed since; the oldest go first."""

    def __init__(self) -> None:
        self._ports: OrderedDict[PodPort, None] = OrderedDict()

    def __contains__(self, port: PodPort) -> bool:
        return port in self._ports

    def add(self, port: PodPort) -> None:
        """Note that a port has answered."""
        self._ports[port] = None
        self._ports.move_to_end(port)
        if len(self._ports) > _MAX_PORTS:
            self._ports.popitem(last=False)

    def discard(self, port: PodPort) -> None:
        """Note that a tunnel to a port was lost."""
        self._ports.pop(port, None)
