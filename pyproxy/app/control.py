"""The requests of the control socket: each is read, answered from the agent's parts, or refused."""

import logging
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from aiohttp import web

from pyproxy.app import control_explain, control_lists
from pyproxy.app.control_lists import encoded
from pyproxy.app.control_parts import Parts
from pyproxy.app.control_status import status
from pyproxy.app.succession import PATH, HandOver
from pyproxy.core.target import parse_target
from pyproxy.errors import ConfigError
from pyproxy.model.service import ServiceName
from pyproxy.ops.control import Body, ControlError, Handler

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class ExplainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """client: of targets that do not name theirs; "" for somebody unknown."""

    targets: Annotated[list[str], msgspec.Meta(min_length=1, max_length=100)]
    client: str = ""


class LevelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """level: from which on the agent and its workers log."""

    level: Literal["debug", "info", "warning", "error"]


def routes(parts: Parts) -> dict[tuple[str, str], Handler]:
    """What the control socket answers, by method and path."""

    async def get_status(_: web.Request) -> Body:
        return status(parts)

    async def get_services(request: web.Request) -> Body:
        return await control_lists.services(parts, _asked(request), encoded)

    async def get_endpoints(request: web.Request) -> Body:
        return await control_lists.endpoints(parts, _asked(request), encoded)

    async def get_connections(request: web.Request) -> Body:
        asked, limit = _asked(request, "limit"), _limit(request)
        return await control_lists.connections(parts, asked, limit, encoded)

    async def post_explain(request: web.Request) -> Body:
        asked = await _body(request, ExplainRequest)
        try:
            targets = [parse_target(text, asked.client) for text in asked.targets]
        except ConfigError as fault:
            raise ControlError(400, str(fault)) from fault
        answers = [await control_explain.explain_live(parts, target) for target in targets]
        return {"explanations": answers}

    async def post_drain(_: web.Request) -> Body:
        parts.drain()
        return {"draining": True}

    async def post_hand_over(request: web.Request) -> Body:
        return await parts.succession.hand_over(await _body(request, HandOver))

    async def post_log_level(request: web.Request) -> Body:
        asked = await _body(request, LevelRequest)
        level = logging.getLevelNamesMapping()[asked.level.upper()]
        logging.getLogger().setLevel(level)
        parts.forwarding.set_log_level(level)
        log.info("logging from level %s on", asked.level)
        return {"level": asked.level}

    return {
        ("GET", "/status"): get_status,
        ("GET", "/services"): get_services,
        ("GET", "/endpoints"): get_endpoints,
        ("GET", "/connections"): get_connections,
        ("POST", "/explain"): post_explain,
        ("POST", "/drain"): post_drain,
        ("POST", PATH): post_hand_over,
        ("POST", "/log-level"): post_log_level,
    }


def _asked(request: web.Request, *others: str) -> ServiceName | None:
    """The Service, or with an empty name the namespace, that a request is about; or all."""
    unknown = set(request.query) - {"namespace", "name", *others}
    if unknown:
        raise ControlError(400, f"unknown parameters: {', '.join(sorted(unknown))}")
    namespace, name = request.query.get("namespace", ""), request.query.get("name", "")
    if name and not namespace:
        raise ControlError(400, f"the Service {name} needs its namespace")
    return ServiceName(namespace, name) if namespace else None


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", str(control_lists.MAX_ROWS))
    if not (text.isascii() and text.isdecimal() and len(text) < 7):
        raise ControlError(400, f"limit: {text[:20]!r} is not a number of rows")
    return min(int(text), control_lists.MAX_ROWS)


async def _body(request: web.Request, kind: type[_T]) -> _T:
    data: Any = await request.read()
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise ControlError(400, f"the request's body: {fault}") from fault
