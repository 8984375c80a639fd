"""What the clients of one process have done, told to the driver now and then."""

from collections import Counter
from typing import Any, NamedTuple


class Failure(NamedTuple):
    """A request that failed. Times are of the system's monotonic clock: it has one for all.

    began_s: when its connection was begun.
    """

    kind: str
    reason: str
    began_s: float
    failed_s: float


class Tally:
    """Counts since they were last taken."""

    def __init__(self) -> None:
        self.ok: Counter[str] = Counter()
        self.uploaded: Counter[str] = Counter()
        self.downloaded: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self.udp_retries = 0

    def succeeded(self, kind: str, upload: int, download: int) -> None:
        """Count a request of which every byte was checked."""
        self.ok[kind] += 1
        self.uploaded[kind] += upload
        self.downloaded[kind] += download

    def add(self, taken: dict[str, Any]) -> None:
        """Add what another tally has taken."""
        self.ok.update(taken["ok"])
        self.uploaded.update(taken["uploaded"])
        self.downloaded.update(taken["downloaded"])
        self.failures += [Failure(*fields) for fields in taken["failures"]]
        self.udp_retries += taken["udp_retries"]

    def take(self) -> dict[str, Any]:
        """Return the counts as JSON can have them, and begin again at zero."""
        taken = dict(vars(self))
        vars(self).update(vars(Tally()))
        return taken
