"""Which frontends should be listened on, which cannot be bound, and when to try those again.

A frontend that cannot be bound is no reason to stop: it is logged once, kept with its reason for
the health detail, and tried again every few seconds, a bounded number at a time.

A listener on a virtual IP keeps all others from listening on every address at that port, and they
it. So a port that somebody had is left to him until it was seen free twice, some time apart:
otherwise whoever may write Services could wait for the restart of a daemon and keep it out.
"""

import asyncio
import errno
import itertools
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pyproxy.forward.settings import ForwardSettings
from pyproxy.forward.sockets import is_local
from pyproxy.forward.ticker import Ticker
from pyproxy.metrics import Metrics

if TYPE_CHECKING:
    from pyproxy.model.addresses import Family
    from pyproxy.model.service import Protocol as IpProtocol
    from pyproxy.model.table import Frontend, FrontendKey

    _Place = tuple[Family, int, IpProtocol]

log = logging.getLogger(__name__)

# More faults of one kind at once than this are one line in the log, with examples.
_LINES = 5

TAKEN = "another process listens there"

_NOT_TO_BE_HAD = {
    errno.EADDRNOTAVAIL: "the address is not on this host",
    errno.EADDRINUSE: TAKEN,
    errno.EACCES: "no permission for this port, which takes the capability NET_BIND_SERVICE",
}
# Reasons that lie in the address or the port: another one may do.
NOT_TO_BE_HAD = frozenset(_NOT_TO_BE_HAD.values())

_REASONS = {
    **_NOT_TO_BE_HAD,
    # IP_TRANSPARENT (ip(7)); asked for only when the settings say so.
    errno.EPERM: "addresses on no interface take the capability NET_ADMIN or NET_RAW",
}


class Server(Protocol):
    """Listens on the frontends of one protocol."""

    def keys(self) -> "list[FrontendKey]":
        """The frontends that take new clients."""

    def has(self, key: "FrontendKey") -> bool:
        """Whether a frontend takes new clients."""

    def serve(self, frontend: "Frontend") -> None:
        """Listen, or change where it leads. Raises OSError when it cannot be bound."""

    def judge_by(self, state: "Frontend") -> None:
        """Judge the clients of a frontend by this state from now on, if it has a socket."""

    def retire(self, key: "FrontendKey") -> None:
        """Take no new clients; those that wait to be accepted are still judged."""


class _Contested(NamedTuple):
    """A port that another process had. next_look_s: when to look whether it still has it."""

    next_look_s: float
    was_free: bool = False


class Bindings:
    """Keeps the servers at what is wanted, as far as the host allows."""

    def __init__(
        self,
        settings: ForwardSettings,
        servers: Mapping["IpProtocol", Server],
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._servers = servers
        self._metrics = metrics
        self._batch = settings.bind_retry_batch
        self._tells_taken = settings.tells_taken
        self._contested_s = settings.contested_s if settings.transparent else 0.0
        self._contested: dict[_Place, _Contested] = {}
        self._clock = loop.time
        self._faults: dict[FrontendKey, str] = {}
        self._waiting: dict[FrontendKey, Frontend] = {}
        self._retries = Ticker(loop, settings.bind_retry_s, self._retry)

    def faults(self) -> Mapping["FrontendKey", str]:
        """Why each frontend that should be listened on is not."""
        return dict(self._faults)

    def serve(self, frontends: "list[Frontend]") -> None:
        """Listen on these, or change where they lead; report those that cannot be bound."""
        log_faults(self._try(frontends))

    def dismiss(self, key: "FrontendKey", state: "Frontend | None" = None) -> None:
        """Judge its clients by this state until it is retired, and try no more to bind it.

        state: by which nobody can be forwarded; None when it is gone, and then its last one counts.
        """
        self._waiting.pop(key, None)
        self._faults.pop(key, None)
        if state is not None:
            self._servers[key[2]].judge_by(state)

    def retire(self, key: "FrontendKey") -> None:
        """Listen on it no more."""
        self._servers[key[2]].retire(key)

    def close(self) -> None:
        """Try nothing again."""
        self._retries.stop()
        self._waiting.clear()

    def _try(self, frontends: "list[Frontend]") -> "list[tuple[Frontend, str]]":
        """Serve each; return those whose fault is new, or another than before, and to be told."""
        news: list[tuple[Frontend, str]] = []
        for frontend in frontends:
            key = frontend.key
            self._waiting.pop(key, None)
            reason = self._bind(frontend)
            if reason is not None:
                self._waiting[key] = frontend  # behind the others, which are tried first
                if self._faults.get(key) != reason:
                    self._faults[key] = reason
                    if self._tells_taken or reason not in NOT_TO_BE_HAD:
                        news.append((frontend, reason))
            elif self._faults.pop(key, None) is not None:
                log.info("listening on %s after all", frontend)
        if self._waiting:
            self._retries.wake()
        return news

    def _bind(self, frontend: "Frontend") -> str | None:
        """Serve it, or return why it cannot be served now."""
        server = self._servers[frontend.protocol]
        if server.has(frontend.key):
            server.serve(frontend)
            return None
        place = frontend.backend.family, frontend.port, frontend.protocol
        contested = self._contested.get(place)
        if contested is not None and self._clock() < contested.next_look_s:
            return TAKEN
        try:
            server.serve(frontend)
        except OSError as error:
            self._metrics.bind_errors += 1
            if error.errno == errno.EADDRINUSE and self._contested_s:
                self._contend(place, frontend.address)
            return _REASONS.get(error.errno or 0) or os.strerror(error.errno or 0)
        if contested is not None and not contested.was_free:
            server.retire(frontend.key)
            self._contested[place] = _Contested(self._clock() + self._contested_s, was_free=True)
            return TAKEN
        self._contested.pop(place, None)
        return None

    def _contend(self, place: "_Place", address: str) -> None:
        """Remember that somebody listens on every address: nobody else can be in a VIP's way."""
        if not is_local(address):
            self._contested[place] = _Contested(self._clock() + self._contested_s)

    def _retry(self) -> bool:
        log_faults(self._try(list(itertools.islice(self._waiting.values(), self._batch))))
        return bool(self._waiting)


def log_faults(news: "list[tuple[Frontend, str]]") -> None:
    """Log frontends that cannot be bound, with the reason; many with one reason in one line."""
    by_reason: dict[str, list[Frontend]] = {}
    for frontend, reason in news:
        by_reason.setdefault(reason, []).append(frontend)
    for reason, frontends in by_reason.items():
        if len(frontends) > _LINES:
            examples = ", ".join(str(frontend) for frontend in frontends[:_LINES])
            log.warning(
                "cannot listen on %d frontends: %s; they are tried again. Among them: %s",
                len(frontends),
                reason,
                examples,
            )
            continue
        for frontend in frontends:
            log.warning("cannot listen on %s: %s; it is tried again", frontend, reason)
