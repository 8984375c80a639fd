"""Whether this process may steer at all. Nothing is changed to find out."""

import re
import shutil
import sys
from pathlib import Path

_NET_ADMIN = 1 << 12  # linux/capability.h
_STATUS = Path("/proc/self/status")
# fib_validate_source: the way back to a client is looked up with the packet's mark then, and leads
# to this host itself: a false source.
_SOURCE_MARK = Path("/proc/sys/net/ipv4/conf/all/src_valid_mark")


def why_not() -> str | None:
    """Return what is missing and how to get it, in one line; None when nothing is."""
    if sys.platform != "linux":
        return "steering needs Linux"
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", _STATUS.read_text(), re.MULTILINE)
    if found is None or not int(found[1], 16) & _NET_ADMIN:
        return (
            "steering needs CAP_NET_ADMIN: run as root, or in a pod with the capability NET_ADMIN"
        )
    if shutil.which("nft") is None:
        return "steering needs the command nft: install the package nftables"
    if _SOURCE_MARK.exists() and _SOURCE_MARK.read_text().strip() == "1":
        return (
            "steering needs net.ipv4.conf.all.src_valid_mark=0 (sysctl -w): with 1 the kernel drops"
            " every IPv4 packet that is steered"
        )
    return None
