"""Keys as they are pressed, without waiting for Enter, and the terminal as it was afterwards."""

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator


def is_in_foreground() -> bool:
    """Whether this process may use its terminal: the shell's `&` stops who changes it."""
    try:
        return os.getpgrp() == os.tcgetpgrp(sys.stdin.fileno())
    except OSError:  # standard input is no terminal, or not ours: nothing would be changed
        return True


@contextlib.contextmanager
def keys(on_input: Callable[[str], None]) -> Iterator[None]:
    """Call `on_input` with what is typed, while the block runs; never where nobody can type."""
    if not sys.stdin.isatty():
        yield
        return
    loop, terminal = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def read() -> None:
        text = b""
        with contextlib.suppress(OSError):
            text = os.read(terminal, 64)
        if text:
            on_input(text.decode(errors="ignore"))
        else:  # the terminal is gone
            loop.remove_reader(terminal)

    tty.setcbreak(terminal, termios.TCSADRAIN)  # ctrl-C stays a signal
    loop.add_reader(terminal, read)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
