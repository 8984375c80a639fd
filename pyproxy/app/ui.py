"""The status page: its answers and its events, made from the agent's parts. It changes nothing.

While somebody watches, one look a second is made for all viewers, and what is new is sent to all.
While nobody does, only the history goes on.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from pyproxy import __version__
from pyproxy.app import control_explain, control_lists
from pyproxy.app.control_parts import Parts
from pyproxy.app.control_status import error_json, state_of, status
from pyproxy.app.recent_errors import WINDOW_S
from pyproxy.app.ui_picture import Picture
from pyproxy.app.ui_services import Doing, Row, Services, doing, spark
from pyproxy.app.ui_traffic import Rates, Traffic
from pyproxy.config import HostPort
from pyproxy.core.history import COLUMNS, STEP_S
from pyproxy.core.target import NameTarget
from pyproxy.model.service import ServiceName
from pyproxy.ops import ui
from pyproxy.ops.control import ControlError
from pyproxy.ops.viewers import MOST_VIEWERS, Viewers, event
from pyproxy.ops.web import Handler, serve_application

LOOK_S = 1.0
# Rows in one event: about a millisecond of work.
_IN_AN_EVENT = 250
_WITH_SPARKS = 50
# Viewers, and what else their browsers ask: six connections of each at most, but not at one time.
_MOST_CONNECTIONS = 5 * MOST_VIEWERS
# Explaining connects endpoints: at one time, for all who ask.
_EXPLAIN_AT_ONCE = 2

_T = TypeVar("_T")
_NO_RATES = Rates()
# The numbers of Doing that are added up, in their order there.
_TOTALS = ("connections", "to_endpoint", "to_client", "active", "errors")


class Page:
    """The page of one agent. clock: monotonic."""

    def __init__(self, parts: Parts, clock: Callable[[], float] = time.monotonic) -> None:
        self._parts = parts
        self._traffic = Traffic(parts.metrics, clock)
        self.keep_history = self._traffic.keep_history
        self._services = Services(parts)
        self._picture = Picture(parts)
        self._watched = asyncio.Event()
        self._viewers = Viewers(self._watched.set)
        self._looking = asyncio.Lock()
        self._explaining = asyncio.Semaphore(_EXPLAIN_AT_ONCE)
        # What the viewers know.
        self._doings: dict[ServiceName, Doing] = {}
        self._totals: dict[str, float] = dict.fromkeys(_TOTALS, 0.0)
        self._shown: list[Row] = []
        self._steps = 0
        self._looks = 0

    def answers(self) -> dict[str, Handler]:
        """What is answered beside the files, by path."""
        service = "/api/v1/services/{namespace}/{name}"
        return {
            "/api/v1/status": self._get_status,
            "/api/v1/events": self._get_events,
            service: self._get_service,
            f"{service}/explain": self._get_explanation,
        }

    async def _get_status(self, _: web.Request) -> web.Response:
        viewers = {"now": len(self._viewers), "most": MOST_VIEWERS}
        return ui.answer({"pyproxy": __version__, "viewers": viewers, **status(self._parts)})

    async def _get_events(self, request: web.Request) -> web.StreamResponse:
        return await self._viewers.follow(request, self._everything())

    async def _get_service(self, request: web.Request) -> web.Response:
        name = _asked(request)
        ports = await control_lists.services(self._parts, name)
        endpoints = await control_lists.endpoints(self._parts, name)
        history = self._traffic.history
        return ui.answer(
            {
                "ports": ports["services"],
                **endpoints,
                "errors_window_seconds": WINDOW_S,
                "errors": [error_json(error) for error in self._parts.errors.latest(name)],
                "step_seconds": STEP_S,
                "history": {column: history.column(name, column) for column in COLUMNS},
            }
        )

    async def _get_explanation(self, request: web.Request) -> web.Response:
        name = _asked(request)
        if name not in self._parts.store.services():
            await control_lists.services(self._parts, name)  # which refuses it, with near names
        async with self._explaining:
            target = NameTarget(name.namespace, name.name)
            return ui.answer(await control_explain.explain_live(self._parts, target))

    async def tell(self) -> None:
        """Look once a second for as long as there are viewers, and tell them what is new."""
        while True:
            await self._watched.wait()
            while len(self._viewers):
                async with self._looking:
                    async for message in self._look():
                        self._viewers.send(message)
                        await asyncio.sleep(0)
                await asyncio.sleep(LOOK_S)
            self._watched.clear()
            self._looks = 0

    async def _look(self) -> AsyncIterator[bytes]:
        """Find out what is new since the last look, and tell it in parts."""
        changed = await self._services.look()
        new = await self._look_at_doings()
        for rows in _parts(changed.rows):
            yield _event(services=rows)
        for some in _parts(new):
            yield _event(doing=some)
        if not self._looks % 2:
            self._shown = await self._picture.look(self._doings)
        self._looks += 1
        steps, self._steps = self._steps, self._traffic.steps
        yield self._summary(gone=changed.gone, is_step=steps != self._steps)

    async def _look_at_doings(self) -> list[Doing]:
        """How each Service does; return what is new, and keep the sums of all."""
        rates, before = await self._traffic.rates(), self._doings
        doings: dict[ServiceName, Doing] = {}
        new, totals = [], [0.0] * len(_TOTALS)
        for number, (name, known) in enumerate(self._services.known.items(), start=1):
            now = doing(known, name, rates.get(name, _NO_RATES), self._traffic.history)
            doings[name] = now
            if before.get(name) != now:
                new.append(now)
            totals = [total + one for total, one in zip(totals, now[1:6], strict=True)]
            if not number % _IN_AN_EVENT:
                await asyncio.sleep(0)
        self._doings = doings
        self._totals = {name: round(total, 1) for name, total in zip(_TOTALS, totals, strict=True)}
        return new

    def _summary(self, **more: Any) -> bytes:
        """What ends each look: the state of the agent, sums, and the picture."""
        state, reasons = state_of(self._parts)
        return _event(
            state=state,
            reasons=reasons,
            totals=self._totals,
            picture=self._shown,
            **more,
        )

    async def _everything(self) -> AsyncIterator[bytes]:
        """What a new viewer must know, in parts."""
        async with self._looking:
            if not self._looks:
                async for _ in self._look():
                    await asyncio.sleep(0)
            rows = [known.row for known in self._services.known.values()]
            doings = list(self._doings.items())
            summary = self._summary(is_whole=True)
        yield b"retry: 1000\n" + _event(
            "hello",
            pyproxy=__version__,
            node=self._parts.store.config.node_name,
            started=self._parts.started_s,
            source=self._parts.source,
            step_seconds=STEP_S,
        )
        for part in _parts(rows):
            await asyncio.sleep(0)  # writing waits only where the viewer is slow
            yield _event(services=part)
        for some in _parts(doings, _WITH_SPARKS):
            await asyncio.sleep(0)
            sparks = {str(now.number): spark(self._traffic.history, name) for name, now in some}
            yield _event(
                doing=[now for _, now in some],
                sparks={number: points for number, points in sparks.items() if points},
            )
        yield summary


def _asked(request: web.Request) -> ServiceName:
    namespace, name = request.match_info["namespace"], request.match_info["name"]
    if not namespace or not name:
        raise ControlError(404, "a Service has a namespace and a name")
    return ServiceName(namespace, name)


def _parts(items: list[_T], size: int = _IN_AN_EVENT) -> Iterator[list[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _event(name: str = "tick", /, **data: Any) -> bytes:
    return event(name, msgspec.json.encode(data))


class PageSettings(Protocol):
    """Of AgentSettings, what the page is set to."""

    @property
    def page(self) -> HostPort | None:
        """Where it listens; None: nowhere."""

    @property
    def page_hosts(self) -> tuple[str, ...]:
        """Names that it may be asked for by."""

    @property
    def http_retry_s(self) -> float:
        """Until a port that is taken is tried again."""


def tasks(
    parts: Parts, settings: PageSettings, urls: dict[str, str]
) -> dict[str, Coroutine[Any, Any, None]]:
    """What the agent runs for the page, by what to call it; nothing when it is switched off."""
    if settings.page is None:
        return {}
    on_bound = partial(urls.__setitem__, "page")
    page = Page(parts)
    return {
        "the history of traffic": page.keep_history(),
        "the page's events": page.tell(),
        "the page": serve_application(
            "page",
            *settings.page,
            ui.application(page.answers(), bound=settings.page.address, hosts=settings.page_hosts),
            on_bound=on_bound,
            retry_s=settings.http_retry_s,
            most_connections=_MOST_CONNECTIONS,
        ),
    }
