"""How many listen on a TCP port of this network namespace, as the kernel tells."""

from collections.abc import Iterable

_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_LISTEN = "0A"  # include/net/tcp_states.h


def listeners(port: int) -> int:
    """Return the number of listening sockets on a port, at whatever addresses. Reads files."""
    found = 0
    for path in _TABLES:
        try:
            with open(path, encoding="ascii") as table:
                next(table)
                found += count(table, port)
        except OSError:  # no IPv6
            continue
    return found


def count(lines: Iterable[str], port: int) -> int:
    """Count in the lines of a table (proc_net_tcp.txt); those that listen come first."""
    number, found = f":{port:04X}", 0
    for line in lines:
        _, local, _, state, *_ = line.split()
        if state != _LISTEN:
            break
        found += local.endswith(number)
    return found
