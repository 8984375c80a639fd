"""Which Services and Service ports have frontends, so that what is kept of others can go."""

from collections import Counter
from typing import TYPE_CHECKING

from pyproxy.model.addresses import FAMILIES, Family
from pyproxy.model.service import ServiceName, ServicePortName

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pyproxy.model.table import Frontend, FrontendKey


class Uses:
    """Counts the frontends of each Service port and family, through the changes of a table."""

    def __init__(self) -> None:
        self._frontends: Counter[tuple[ServicePortName, Family]] = Counter()
        self._ports: Counter[ServiceName] = Counter()  # of Services, by family
        self._unused: dict[tuple[ServicePortName, Family], None] = {}

    def __contains__(self, name: object) -> bool:
        """Whether a Service port has frontends of any family, or has lost them only lately."""
        return any(
            (name, family) in self._frontends or (name, family) in self._unused
            for family in FAMILIES
        )

    def has_service(self, name: ServiceName) -> bool:
        """Whether a Service has frontends."""
        return name in self._ports

    def change(
        self,
        gone: "Iterable[Frontend]",
        new: "Iterable[Frontend]",
        before: "Mapping[FrontendKey, Frontend]",
    ) -> None:
        """Take in a change of the table."""
        for frontend in new:
            self._add(frontend)
            known = before.get(frontend.key)
            if known is not None:
                self._remove(known)
        for frontend in gone:
            self._remove(frontend)

    def take_unused(self) -> list[tuple[ServicePortName, Family]]:
        """Return what has lost its last frontend since the last call."""
        unused, self._unused = self._unused, {}
        return [key for key in unused if key not in self._frontends]

    def _add(self, frontend: "Frontend") -> None:
        key = (frontend.backend.name, frontend.backend.family)
        self._ports[key[0].service] += key not in self._frontends
        self._frontends[key] += 1

    def _remove(self, frontend: "Frontend") -> None:
        key = (frontend.backend.name, frontend.backend.family)
        self._frontends[key] -= 1
        if not self._frontends[key]:
            del self._frontends[key]
            self._unused[key] = None
            self._ports[key[0].service] -= 1
            if not self._ports[key[0].service]:
                del self._ports[key[0].service]
