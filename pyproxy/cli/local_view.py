"""What `pyproxy local` prints where nobody watches a live table: at each change, all of it."""

import json
from typing import TYPE_CHECKING, TextIO

from pyproxy.core.local_table import to_json, to_lines

if TYPE_CHECKING:
    from pyproxy.app.local import State


class Lines:
    """The table as aligned lines, and how endpoints are reached."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown = ""

    async def follow(self, state: "State") -> None:
        """Print the table if it is another one."""
        ways = (f"{context or 'cluster'}: {way}" for context, way in state.ways.items())
        text = "\n".join([*to_lines(state.rows), f"upstream: {', '.join(ways)}", "", ""])
        if text != self._shown:
            self._shown = text
            self._out.write(text)
            self._out.flush()

    async def close(self) -> None:
        """What is printed is printed."""


class JsonLines:
    """One object a line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown = ""

    async def follow(self, state: "State") -> None:
        """Print the object if it is another one."""
        text = json.dumps({**to_json(state.rows), "upstream": state.ways})
        if text != self._shown:
            self._shown = text
            self._out.write(f"{text}\n")
            self._out.flush()

    async def close(self) -> None:
        """What is printed is printed."""
