"""Giving up what a process may do beyond its work, for good: capabilities(7), PR_SET_NO_NEW_PRIVS.

What is kept is passed on to the programs that are run from here, also without root: nft, and the
workers. Nothing that is run from here gets more, whatever its owner, mode or file capabilities.

Capabilities belong to threads: `keep` is to be called before the second one is started.
"""

import ctypes
import sys
from collections.abc import Collection
from typing import Literal

Capability = Literal["DAC_OVERRIDE", "NET_BIND_SERVICE", "NET_ADMIN"]
_BITS: dict[Capability, int] = {  # linux/capability.h
    "DAC_OVERRIDE": 1,
    "NET_BIND_SERVICE": 10,
    "NET_ADMIN": 12,
}

# Low ports. Addresses of no interface (IP_TRANSPARENT, ip(7)): NET_RAW would do for that, but not
# for the filter that lets a listener end its handshakes before it closes, which some kernels grant
# to NET_ADMIN alone.
WORKER: tuple[Capability, ...] = ("NET_BIND_SERVICE", "NET_ADMIN")
# nftables, rules and routes take NET_ADMIN too. A kubeconfig or an access log may be another
# user's; a container without DAC_OVERRIDE lacks nothing.
AGENT: tuple[Capability, ...] = (*WORKER, "DAC_OVERRIDE")

_LAST_BIT = 63
_VERSION_3 = 0x20080522  # capget(2)
_PR_CAPBSET_DROP = 24  # prctl(2)
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Words(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def keep(wanted: Collection[Capability]) -> None:
    """Give up all but these; those that are missing stay so. It cannot be undone."""
    if sys.platform != "linux":
        return
    libc = _libc()
    bits = {_BITS[name] for name in wanted}
    for bit in set(range(_LAST_BIT + 1)) - bits:
        # Fails without SETPCAP, and above the kernel's last one; no_new_privs stands in for it.
        libc.prctl(_PR_CAPBSET_DROP, bit, 0, 0, 0)
    kept = {bit for bit in bits if _get(libc) >> bit & 1}
    _set(libc, sum(1 << bit for bit in kept))
    for bit in kept:  # so that a program that is run without root gets it (Linux 4.3)
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, bit, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _get(libc: ctypes.CDLL) -> int:
    """The permitted capabilities of this thread."""
    words = (_Words * 2)()
    _check(libc.capget(ctypes.byref(_Header(_VERSION_3, 0)), words), "capget")
    return int(words[0].permitted) | int(words[1].permitted) << 32


def _set(libc: ctypes.CDLL, mask: int) -> None:
    words = (_Words * 2)()
    for number, word in enumerate(words):
        part = mask >> 32 * number & 0xFFFFFFFF
        word.effective = word.permitted = word.inheritable = part
    _check(libc.capset(ctypes.byref(_Header(_VERSION_3, 0)), words), "capset")


def _check(result: int, doing: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{doing} failed")
