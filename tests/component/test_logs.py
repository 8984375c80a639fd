"""What the log of a process holds."""

import subprocess
import sys

NETLINK = """
from pyproxy.app import logs
logs.set_up("debug", "text")
import logging
from pyproxy.steer.addresses import local_addresses
logging.getLogger("pyproxy").debug("before")
local_addresses()
logging.getLogger("pyroute2").warning("of a library")
"""


def test_libraries_that_tell_each_step_are_heard_from_warnings_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NETLINK], capture_output=True, text=True, check=True
    )
    levels = [line.split()[1:] for line in done.stderr.splitlines()]
    assert levels == [["DEBUG", "before"], ["WARNING", "of", "a", "library"]]
