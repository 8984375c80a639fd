"""Clients that wait at a listener that closes: the kernel can hand them to another of its port.

Without that they are reset: those that a killed worker had not accepted, and those whose handshake
is not finished when an agent stops listening. The setting is of the network namespace; it concerns
listeners that share a port by SO_REUSEPORT, and only when one of them closes.
"""

import logging

log = logging.getLogger(__name__)

# Since Linux 5.14; for IPv6 too (ip-sysctl.rst).
SETTING = "/proc/sys/net/ipv4/tcp_migrate_req"


def keep_waiting_clients(setting: str = SETTING) -> None:
    """Have them handed over, if that may be set here; else say what it costs."""
    try:
        with open(setting, "r+", encoding="ascii") as file:
            if file.read().strip() == "1":
                return
            file.seek(0)
            file.write("1")
    except OSError as fault:
        log.info(
            "net.ipv4.tcp_migrate_req cannot be set to 1 (%s): when an agent or a worker ends, a"
            " few new clients may wait for a second, and those of a killed one be reset",
            fault.strerror,
        )
