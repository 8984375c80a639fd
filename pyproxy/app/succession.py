"""Two agents on one node: the newer one takes over, the older one leaves.

A newer agent asks over the control socket who serves already. It first learns where clients stick,
then serves beside the older one (SO_REUSEPORT), and only then asks it to leave. The older one stops
steering and listening, answers, frees its ports, and drains; it ends when it is told to, as a
supervisor that saw it end would start it again. Nothing here is needed for the kernel's part: an
older agent that is only stopped loses no client either, while a newer one listens.

Only who serves the same Services to the same kernel is a successor; another agent is left alone.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import aiohttp
import msgspec

from pyproxy.app.forwarding import Forwarding
from pyproxy.core.affinity import Pin
from pyproxy.ops.control import Body, ControlError

log = logging.getLogger(__name__)

PATH = "/hand-over"
# The older agent waits for its workers to stop listening.
_ANSWER_S = 10.0
# From its answer until its control socket is gone.
_GONE_S = 3.0
_LOOK_S = 0.05


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent is on its node. source: `manifests` or `api`; steering: `nft` or `none`."""

    node: str
    proxy_name: str
    source: str
    steering: str


class HandOver(msgspec.Struct, frozen=True, kw_only=True):
    """A newer agent's request: to tell where clients stick, and with `leave` to leave."""

    role: Role
    leave: bool


class _Answer(msgspec.Struct, frozen=True):
    """What is read of the answer. pins: where clients stick."""

    pins: list[Pin]


class Succession:
    """An agent's place between the one before and the one after it.

    asked: set when a newer agent wants to take over; left: by the agent, once it has left.
    is_sole: set once no older agent serves, or none that can be taken over from.
    """

    def __init__(self, role: Role, places: Sequence[str], forwarding: Forwarding) -> None:
        self.asked = asyncio.Event()
        self.left = asyncio.Event()
        self.is_sole = asyncio.Event()
        self._role = role
        self._places = places
        self._forwarding = forwarding

    async def look(self) -> None:
        """Learn from an older agent where clients stick, before any comes here."""
        if not await self._ask(leave=False):
            self.is_sole.set()

    async def take_over(self, ready: asyncio.Event, mend: Callable[[], Awaitable[None]]) -> None:
        """Ask the older agent to leave once this one is ready, until cancelled.

        mend: brings the kernel's state to what this agent wants; the older one has it left alone.
        """
        await ready.wait()
        if not self.is_sole.is_set():
            if await self._ask(leave=True):
                log.info("took over from an older agent, which drains")
                await self._until_gone()
                await mend()
            self.is_sole.set()
        await asyncio.Event().wait()

    async def hand_over(self, request: HandOver) -> Body:
        """Answer a newer agent. Raises ControlError when it is no successor of this one."""
        if request.role != self._role:
            raise ControlError(
                409,
                f"this agent is {_said(self._role)} and does not leave for {_said(request.role)};"
                " --control-socket gives the other one its own socket",
            )
        if request.leave:
            self.asked.set()
            await self.left.wait()
        return {"leaving": request.leave, "pins": self._forwarding.pins()}

    async def _ask(self, *, leave: bool) -> bool:
        """Whether an older agent has answered, and left if it was asked to."""
        body = msgspec.json.encode(HandOver(role=self._role, leave=leave))
        for place in self._places:
            try:
                status, data = await _post(place, body)
            except (FileNotFoundError, ConnectionRefusedError, aiohttp.ClientConnectorError):
                continue
            except (OSError, aiohttp.ClientError) as fault:
                why = str(fault) or type(fault).__name__
                log.warning("the agent at %s does not answer (%s): not waiting for it", place, why)
                return False
            if status == 200:
                self._adopt(data)
                return True
            if not leave:
                log.warning("not taking over from the agent at %s: %s", place, _reason(data))
            return False
        return False

    def _adopt(self, data: bytes) -> None:
        try:
            self._forwarding.adopt(msgspec.json.decode(data, type=_Answer).pins)
        except msgspec.DecodeError as fault:  # of another version
            log.warning("clients may change their endpoint: the older agent's answer: %s", fault)

    async def _until_gone(self) -> None:
        """Wait until the older agent's control socket is free; not for long."""
        try:
            async with asyncio.timeout(_GONE_S):
                while any([await _answers(place) for place in self._places]):  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            log.warning("the older agent keeps its control socket")


def _said(role: Role) -> str:
    name = f", proxy name {role.proxy_name}" if role.proxy_name else ""
    return f"on node {role.node}{name}, source {role.source}, steering {role.steering}"


def _reason(data: bytes) -> str:
    try:
        return str(msgspec.json.decode(data)["error"])
    except (msgspec.DecodeError, TypeError, KeyError):
        return "its answer cannot be read"


async def _post(place: str, body: bytes) -> tuple[int, bytes]:
    """Return status and body. Raises OSError (TimeoutError included) and aiohttp.ClientError."""
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
    connector = aiohttp.UnixConnector(place)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        session.post(f"http://pyproxy{PATH}", data=body) as response,
    ):
        return response.status, await response.read()


async def _answers(place: str) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(place)
    except OSError:
        return False
    writer.close()
    return True
