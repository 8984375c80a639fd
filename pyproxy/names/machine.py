"""What this machine lets us bind on its loopback network."""

import os
import socket
from pathlib import Path

_UNPRIVILEGED_START = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
_DEFAULT_START = 1024


def has_loopback_network() -> bool:
    """Whether all of 127.0.0.0/8 is this machine; on macOS 127.0.0.1 is, and aliases are."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.bind(("127.77.88.99", 0))
        except OSError:
            return False
        return True


def first_port() -> int:
    """The first port that may be bound (ip(7), ip_unprivileged_port_start)."""
    if os.geteuid() == 0:
        return 1
    try:
        return int(_UNPRIVILEGED_START.read_text())
    except (OSError, ValueError):
        return _DEFAULT_START
