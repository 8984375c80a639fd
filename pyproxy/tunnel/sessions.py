"""The sessions to all pods: which one the next connection takes, and when a further is opened."""

import asyncio

from pyproxy.tunnel.session import Session
from pyproxy.tunnel.settings import TunnelSettings
from pyproxy.tunnel.stream import StreamChannel
from pyproxy.tunnel.target import PodPort, TunnelError
from pyproxy.tunnel.websocket import WebSocketApi

_Pod = tuple[str, str]


class Sessions:
    """Owns the sessions. tasks: in which they run, each in its own."""

    def __init__(
        self, api: WebSocketApi, settings: TunnelSettings, tasks: asyncio.TaskGroup
    ) -> None:
        self._api = api
        self._settings = settings
        self._tasks = tasks
        self._sessions: dict[_Pod, list[Session]] = {}

    @property
    def count(self) -> int:
        """How many are open, or being opened."""
        return sum(map(len, self._sessions.values()))

    async def connect(self, target: PodPort) -> StreamChannel:
        """Open a connection. Raises TunnelError."""
        while True:
            session = self._place(target)
            was_used = session.was_used
            try:
                return await session.connect(target.port)
            except TunnelError:
                if not (was_used and session.is_lost):
                    raise
                # It had died while nobody used it. A new one cannot fail in this way.

    def end(self) -> None:
        """Let all of them end soon."""
        for sessions in self._sessions.values():
            for session in sessions:
                session.end()

    def _place(self, target: PodPort) -> Session:
        """Choose the session with the fewest connections, or open one while that is allowed."""
        sessions = self._sessions.setdefault((target.namespace, target.pod), [])
        welcoming = [session for session in sessions if session.has_room]
        best = min(welcoming, key=lambda session: session.connections, default=None)
        if best is not None and (
            not best.connections or len(sessions) >= self._settings.sessions_per_pod
        ):
            return best
        session = Session(self._api, target, self._settings)
        sessions.append(session)
        self._tasks.create_task(self._run(session), name=f"session to {target}")
        return session

    async def _run(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            pod = session.target[:2]
            self._sessions[pod].remove(session)
            if not self._sessions[pod]:
                del self._sessions[pod]
