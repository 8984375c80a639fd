"""One resource, kept listed and watched for as long as it runs: the shell around core.listwatch.

It makes the requests that the state machine names, publishes the events that it reads, and decides
how long to wait after each way in which a request can end. It holds no objects: whatever happens,
what was published stands until something better comes.

A burst is a run of failures without a steady watch in between. It is logged when it starts and when
it is over, and not for every try.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import aiohttp
import msgspec

from pyproxy.core.backoff import Backoff, parse_retry_after
from pyproxy.core.listwatch import Dropped, ListWatch, Pause, Request, Stop, StopReason
from pyproxy.errors import ApiError, ConfigError
from pyproxy.metrics import Metrics
from pyproxy.model.events import Event, Listed, Resource
from pyproxy.source.client import ApiClient, transport_stop

if TYPE_CHECKING:
    from pyproxy.source.credentials import Credentials

logger = logging.getLogger(__name__)

WatchState = Literal["listing", "watching", "waiting", "absent"]

# These are no failures when they come alone, or have a remedy that is worth one try at once.
_AT_ONCE_ONCE: frozenset[StopReason] = frozenset(
    {"ended", "expired", "not_streaming", "unauthorized", "tls"}
)
_MISSING: frozenset[StopReason] = frozenset({"forbidden", "not_found"})
_MAX_ANSWER_BYTES = 64 << 10  # of an error's body; a Status has a few hundred bytes
_MAX_REMEMBERED_DROPS = 1000
_USER = re.compile(r'User "([^"]+)" cannot')


class WatchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes, and times in seconds.

    watch_timeout_s: the server is asked to end a watch after once to twice this, at random, so that
    the watches of many nodes do not come back together (client-go: 5 to 10 minutes).
    watch_margin_s: how much longer the end may take before the connection counts as dead.
    bookmark_silence_s: the same, once the server has sent a bookmark; they come each minute.
    stream_silence_s: how long a streaming list may pause before a plain list is tried instead.
    answer_timeout_s: for the headers of an answer, and between the parts of a list.
    steady_after_s: a watch that is open for so long ends a burst.
    absent_retry_s: when to look again for a resource that the server does not have or show.
    retry_after_cap_s: the longest wait that a server can ask for.
    """

    page_size: int = 500
    max_object_bytes: int = 16 << 20
    watch_timeout_s: float = 300.0
    watch_margin_s: float = 30.0
    bookmark_silence_s: float = 150.0
    stream_silence_s: float = 10.0
    answer_timeout_s: float = 30.0
    steady_after_s: float = 1.0
    backoff_base_s: float = 1.0
    backoff_cap_s: float = 30.0
    absent_retry_s: float = 600.0
    retry_after_cap_s: float = 300.0


class WatchTarget(msgspec.Struct, frozen=True):
    """What to watch. `group` is "" for the core API group; `path` has neither host nor query.

    namespace: the one that is watched; "" for all, and for what is in none.
    when_missing: what it means that the server does not have or does not allow it before the first
    list: "fatal" ends the source; "retried" and "absent" count as an empty list, and are tried
    again with the usual waits, or rarely.
    """

    resource: Resource
    group: str
    path: str
    selectors: dict[str, str]
    when_missing: Literal["fatal", "retried", "absent"]
    namespace: str = ""


class Watcher:
    """The watch of one target. `publish` is called in the loop's thread and must not wait."""

    def __init__(
        self,
        target: WatchTarget,
        settings: WatchSettings,
        client: ApiClient,
        publish: Callable[[Event], None],
        metrics: Metrics,
        random: Callable[[], float],
    ) -> None:
        self._target = target
        self._settings = settings
        self._client = client
        self._credentials: Credentials = client.credentials
        self._publish = publish
        self._metrics = metrics
        self._random = random
        self._protocol = ListWatch(
            target.resource,
            target.selectors,
            page_size=settings.page_size,
            max_object_bytes=settings.max_object_bytes,
        )
        self._backoff = Backoff(settings.backoff_base_s, settings.backoff_cap_s)
        self._has_listed = False
        self._counts_as_empty = False
        self._is_in_burst = False
        self._tried_at_once: set[StopReason] = set()
        self._logged_drops: set[str] = set()
        self._verb: Literal["list", "watch"] = "watch"
        self._steady: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """List and watch until cancelled. Raises ApiError when only a person can help."""
        while True:
            stop = await self._exchange()
            if stop is not None:
                await self._rest(stop)

    # One request and its answer.

    async def _exchange(self) -> Stop | None:
        """Make one request; None when the next one is due at once, and all is well."""
        timeout_s = max(1, int(self._settings.watch_timeout_s * (1 + self._random())))
        request = self._protocol.request(timeout_s)
        self._verb = request.verb
        if self._protocol.is_listing:
            self._show("listing")
        url = ""
        try:
            self._credentials = await self._client.fresh_credentials()
            url = self._client.servers.current(self._credentials.url)
            return await self._ask(request)
        except ConfigError as fault:
            return Stop("credentials", str(fault))
        except (aiohttp.ClientError, OSError) as error:
            # TimeoutError is an OSError. Those of aiohttp are about connecting.
            if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
                return self._protocol.fall_silent()
            return self._unreachable(url, transport_stop(error, self._credentials))
        finally:
            self._stop_steadying()

    async def _ask(self, request: Request) -> Stop | None:
        async with asyncio.timeout(self._settings.answer_timeout_s):
            response = await self._client.get(
                self._credentials, self._target.path, request.parameters
            )
        async with response:
            if response.status != 200:
                return await self._read_refusal(response)
            if request.kind == "watch":
                self._start_steadying()
            return await self._read(request, response)

    async def _read(self, request: Request, response: aiohttp.ClientResponse) -> Stop | None:
        while True:
            async with asyncio.timeout(self._patience_s(request)):
                data = await response.content.readany()
            for output in self._protocol.receive(data) if data else self._protocol.finish():
                if isinstance(output, Stop):
                    return output
                await self._deliver(output)
            if not data:
                return None

    async def _read_refusal(self, response: aiohttp.ClientResponse) -> Stop:
        body = b""
        async with asyncio.timeout(self._settings.answer_timeout_s):
            while len(body) < _MAX_ANSWER_BYTES and (part := await response.content.readany()):
                body += part
        retry_after = response.headers.get("Retry-After", "")
        return self._protocol.refuse(
            response.status, body, parse_retry_after(retry_after, datetime.now(UTC))
        )

    async def _deliver(self, output: Event | Dropped | Pause) -> None:
        match output:
            case Pause():
                await asyncio.sleep(0)
            case Dropped(error=error):
                self._metrics.decode_errors[self._target.resource] += 1
                self._log_drop(str(error))
            case Listed():
                self._has_listed = True
                self._publish(output)
                self._start_steadying()
            case _:
                self._publish(output)

    def _patience_s(self, request: Request) -> float:
        """How long no byte may come before the connection counts as dead."""
        if request.kind == "page":
            return self._settings.answer_timeout_s
        if self._protocol.is_listing:
            return self._settings.stream_silence_s
        if self._protocol.has_bookmarks:
            return self._settings.bookmark_silence_s
        return request.watch_timeout_s + self._settings.watch_margin_s

    def _unreachable(self, url: str, stop: Stop) -> Stop:
        """Let the next request go to another address, where the cluster has told of one."""
        if stop.reason == "unreachable" and self._credentials.proxy is None:
            configured = self._credentials.url
            following = self._client.servers.unreachable(url, configured)
            if following != url:
                logger.info("%s cannot be reached; trying %s", url, following)
        return stop

    # What comes after it.

    async def _rest(self, stop: Stop) -> None:
        """Do what the end of a request asks for, and wait as long as it should."""
        self._metrics.watch_restarts[self._target.resource, stop.reason] += 1
        if stop.reason in ("unauthorized", "tls"):
            stop = await self._renew_credentials(stop)
        if stop.reason in _AT_ONCE_ONCE and stop.reason not in self._tried_at_once:
            self._tried_at_once.add(stop.reason)
            logger.debug("%s: %s", self._target.resource, stop.message)
            return
        self._show("waiting")
        if not self._has_listed:
            self._begin_without(stop)
        self._start_burst(stop)
        await asyncio.sleep(self._delay_s(stop))

    def _delay_s(self, stop: Stop) -> float:
        if self._target.when_missing == "absent" and stop.reason in _MISSING:
            self._show("absent")
            return self._settings.absent_retry_s
        asked_s = min(stop.retry_after_s or 0.0, self._settings.retry_after_cap_s)
        return self._backoff.next_delay_s(self._random(), asked_s)

    async def _renew_credentials(self, stop: Stop) -> Stop:
        try:
            await self._client.reload(self._credentials)
        except ConfigError as fault:
            return Stop(
                "credentials", f"{stop.message}; the credentials cannot be renewed: {fault}"
            )
        return stop

    def _begin_without(self, stop: Stop) -> None:
        """Say that there is nothing, where that is an answer to the first list.

        Raises ApiError when going on would be of no use.
        """
        if stop.reason == "unauthorized":
            raise ApiError(self._unauthorized_text(stop), status=401)
        if stop.reason == "forbidden" and self._target.when_missing == "fatal":
            raise ApiError(self._forbidden_text(stop), status=403)
        if (
            stop.reason in _MISSING
            and self._target.when_missing != "fatal"
            and not self._counts_as_empty
        ):
            self._counts_as_empty = True
            self._publish(Listed(self._target.resource, ()))

    def _start_burst(self, stop: Stop) -> None:
        if self._is_in_burst:
            logger.debug("%s: %s", self._target.resource, stop.message)
            return
        self._is_in_burst = True
        is_normal = self._target.when_missing == "absent" and stop.reason in _MISSING
        state = "what was known of them stays" if self._has_listed else "none are known yet"
        logger.log(
            logging.INFO if is_normal else logging.WARNING,
            "cannot watch %s: %s; %s; trying on",
            self._target.resource,
            stop.message,
            state,
        )

    def _start_steadying(self) -> None:
        self._show("watching")
        if self._steady is None:
            loop = asyncio.get_running_loop()
            self._steady = loop.call_later(self._settings.steady_after_s, self._be_steady)

    def _stop_steadying(self) -> None:
        if self._steady is not None:
            self._steady.cancel()
            self._steady = None

    def _be_steady(self) -> None:
        if self._is_in_burst:
            tries = self._backoff.failures
            logger.info("watching %s again, after %d waits", self._target.resource, tries)
        self._is_in_burst = False
        self._tried_at_once.clear()
        self._backoff.reset()

    def _show(self, state: WatchState) -> None:
        self._metrics.watch_states[self._target.resource] = state

    def _log_drop(self, message: str) -> None:
        """Log a fault once; the object comes back with each list."""
        if message in self._logged_drops:
            return
        if len(self._logged_drops) >= _MAX_REMEMBERED_DROPS:
            self._logged_drops.clear()
        self._logged_drops.add(message)
        logger.warning("%s", message)

    def _unauthorized_text(self, stop: Stop) -> str:
        return (
            f"{self._client.credentials.url} does not accept "
            f"{self._client.credentials.origin}: {stop.message}; "
            "renew these credentials, or name another kubeconfig or context"
        )

    def _forbidden_text(self, stop: Stop) -> str:
        target = self._target
        user = _USER.search(stop.message)
        who = f"user {user[1]!r}" if user else "this user"
        return (
            f"{who} may not {self._verb} {target.resource} in API group {target.group!r} "
            f"({stop.message}); add to its ClusterRole: apiGroups [{target.group!r}], "
            f"resources [{target.resource!r}], verbs ['list', 'watch']"
        )
