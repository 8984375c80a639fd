"""What went wrong, when several tasks ended together."""

from pyproxy.errors import PyproxyError


def cause_of(faults: BaseException) -> BaseException:
    """The first error of ours in a group of them, for a person to read; else the group."""
    found: BaseException | None = faults
    if isinstance(faults, BaseExceptionGroup):
        found = faults.subgroup(PyproxyError)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found or faults
