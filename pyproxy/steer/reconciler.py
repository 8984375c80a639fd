"""Keeps the kernel's steering equal to the ruleset that was asked for last.

Owner of the one table, one rule and one route. What a former run left is taken over: the first
`apply` changes only what differs, so that a restart interrupts nobody. Nothing is torn down at the
end of a run, only by `cleanup`.

Invariant: `applied` is what the kernel holds, or None when that is not known for sure; then the
kernel is asked before anything is changed.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from pyproxy.core import ruleset_script
from pyproxy.core.ruleset import GUARD_PREFIX, UNKNOWN, Ruleset
from pyproxy.core.ruleset_diff import diff
from pyproxy.core.transaction import TABLE, Step, Transaction
from pyproxy.model.persistent import PersistentMap
from pyproxy.steer.nft import KernelTable, NftError

log = logging.getLogger(__name__)


class SteerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How packets are steered.

    mark: the bit of the packet mark that says "to this host"; the other bits are left to others.
    checks_pods: drop datagrams with a pod's address that the way back to that pod leads past.
    route_table, rule_priority: numbers that nobody else on the host uses. sync_period_s: how often
    to look whether somebody changed what is ours.
    """

    mark: int = 0x100000
    route_table: int = 10249
    rule_priority: int = 10249
    sync_period_s: float = 60.0
    checks_pods: bool = True


class NftRunner(Protocol):
    """What is needed of nft; pyproxy.steer.nft.Nft is the real one. All methods raise NftError."""

    async def check_version(self) -> None:
        """Raise unless nft can be used."""

    async def run(self, steps: Sequence[Step]) -> None:
        """Make one atomic transaction, or cut it between its steps where it is too large."""

    async def read(self) -> KernelTable | None:
        """Return our table, None if there is none."""


class Routes(Protocol):
    """What is needed of the policy route; pyproxy.steer.routes.PolicyRoute is the real one."""

    def ensure(self) -> bool:
        """Make what is missing, and return whether anything was."""

    def remove(self) -> bool:
        """Remove what is ours, and return whether anything was there."""


class Steering:
    """The kernel objects that steer packets to this host.

    transactions, operations: that were done. repairs: how often something of ours had been changed
    or removed by somebody else. failures: transactions that were refused.
    """

    def __init__(self, runner: NftRunner, routes: Routes, settings: SteerSettings) -> None:
        self._runner = runner
        self._routes = routes
        self._settings = settings
        self._layout = ruleset_script.layout(settings.mark, checks_pods=settings.checks_pods)
        # None: not known for sure. Rules are compared with those read when they were in order.
        self._applied: Ruleset | None = None
        self._rules: Mapping[str, tuple[str, ...]] = {}
        self._wanted: Ruleset | None = None
        self._lock = asyncio.Lock()
        self.transactions = 0
        self.operations = 0
        self.repairs = 0
        self.failures = 0

    async def start(self) -> None:
        """See that steering is possible, and route what is marked.

        Raises NftError or RouteError. What a former run left goes on steering until `apply`.
        """
        await self._runner.check_version()
        async with self._lock:
            await asyncio.to_thread(self._routes.ensure)

    async def apply(self, wanted: Ruleset) -> None:
        """Make the kernel hold this. Raises NftError; the next call then starts from the kernel."""
        async with self._lock:
            self._wanted = wanted
            if self._applied is None:
                await self._take_over(wanted)
            else:
                await self._commit(diff(self._applied, wanted), wanted)

    async def check(self) -> bool:
        """Compare the kernel with what was applied, mend it, and return whether that was needed.

        Raises NftError or RouteError. Before the first `apply` only the route is looked at.
        """
        async with self._lock:
            is_repaired = await asyncio.to_thread(self._routes.ensure)
            if is_repaired:
                log.warning("the policy route for steering was gone, and was made again")
            if self._wanted is not None and not await self._is_in_order():
                log.warning("table %s is not as it was left: mending it", TABLE)
                await self._take_over(self._wanted)
                is_repaired = True
            self.repairs += is_repaired
            return is_repaired

    async def cleanup(self) -> None:
        """Remove everything of ours, also of a former run. Raises NftError or RouteError."""
        async with self._lock:
            self._wanted = self._applied = None
            # The table first: a packet that is marked without a route would go elsewhere.
            await self._runner.run(ruleset_script.remove().steps)
            await asyncio.to_thread(self._routes.remove)

    async def _is_in_order(self) -> bool:
        found = await self._runner.read()
        if found is None or self._applied is None or found.layout != self._layout:
            return False
        for name, rules in self._rules.items():
            is_gone_rightly = name.startswith(GUARD_PREFIX) and name not in self._applied.guards
            if not is_gone_rightly and found.rules.get(name) != rules:
                return False
        self._rules = found.rules  # with the guards that are new
        return _elements(found.ruleset) == _elements(self._applied)

    async def _take_over(self, wanted: Ruleset) -> None:
        """Get from whatever the kernel holds to what is wanted, in one transaction."""
        mark, checks_pods = self._settings.mark, self._settings.checks_pods
        found = await self._runner.read()
        anew = ruleset_script.fresh(mark, checks_pods=checks_pods) + diff(Ruleset(), wanted)
        if found is None or found.layout != self._layout:
            await self._commit(anew, wanted)
        else:
            change = ruleset_script.base(mark, checks_pods=checks_pods)
            change += diff(found.ruleset, wanted)
            try:
                await self._commit(change, wanted)
            except NftError as fault:
                if fault.not_permitted or fault.missing:
                    raise
                log.warning("making table %s anew: %s", TABLE, fault)
                await self._commit(anew, wanted)
        found = await self._runner.read()
        self._rules = found.rules if found is not None else {}

    async def _commit(self, change: Transaction, wanted: Ruleset) -> None:
        if change:
            self._applied = None  # not sure, until it is done
            try:
                await self._runner.run(change.steps)
            except Exception:
                self.failures += 1
                raise
            self.transactions += 1
            self.operations += change.operations
        self._applied = wanted


def _elements(ruleset: Ruleset) -> Ruleset:
    """The ruleset without what the kernel does not tell: the content of guards."""
    unknown = PersistentMap(dict.fromkeys(ruleset.guards, UNKNOWN))
    return msgspec.structs.replace(ruleset, guards=unknown)
