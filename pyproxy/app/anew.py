"""Starting the agent anew in its own process, while its workers go on serving.

The program is loaded again in place of itself (execve(2)): process id, supervisor and container
stay, every descriptor of ours closes, and the workers see what they see when the agent is killed:
they go on until the next one serves. They stay children of this process, which has to ask for their
ends.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

log = logging.getLogger(__name__)

_FORMER = "PYPROXY_FORMER_WORKERS"
_LOOK_S = 1.0


def begin_anew(workers: Sequence[int]) -> NoReturn:
    """Start this command again. workers: the process ids of those that go on. Raises OSError."""
    logging.shutdown()
    environment = {**os.environ, _FORMER: " ".join(map(str, workers))}
    command = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, command, environment)  # noqa: S606  a shell would be in the way


async def reap_former_workers() -> None:
    """Wait for the ends of the workers of the agent that this process was before; then for ever."""
    former = {int(pid) for pid in os.environ.pop(_FORMER, "").split()}
    while former:
        await asyncio.sleep(_LOOK_S)
        former -= {pid for pid in former if _has_ended(pid)}
    await asyncio.Event().wait()


def _has_ended(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return True
