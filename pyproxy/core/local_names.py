"""Which host name means what on this machine, when Services of many namespaces meet in one place.

A pod of the cluster looks names up through its own namespace (resolv.conf `search`), so that `web`
means `web` of there. Here is no such place. So a name belongs to one claimant at most, and who that
is depends on the names alone and on the order in which contexts and namespaces were asked for:

    web.shop.svc.cluster.local  of the first context that has it; so are the next two
    web.shop.svc
    web.shop
    web                         if only one Service has it, or the one of the first namespace
    web.shop.CONTEXT            with several contexts: in any of them

A pod of a headless Service has the same forms with its own name in front: `db-0.db.shop.svc`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from pyproxy.core.local_service import LABEL, Claimant

# What every hosts file has: a Service of that name must not take it from this machine.
# RFC 6761 6.3 for localhost; the others as Debian and macOS write them.
_OF_THE_HOST = frozenset(
    {
        "broadcasthost",
        "ip6-allhosts",
        "ip6-allnodes",
        "ip6-allrouters",
        "ip6-localhost",
        "ip6-localnet",
        "ip6-loopback",
        "ip6-mcastprefix",
        "localhost",
    }
)

# The longer form is the one that a name was meant as: `db.web` is Service db of namespace web
# rather than pod db of the headless Service web.
_FULL, _SVC, _NAMESPACE, _CONTEXT, _SHORT = range(5)


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for. Contexts and namespaces that are not listed come after those that are.

    domain: the cluster's (kubelet's clusterDomain). taken: names that are never given to anybody,
    such as this machine's own.
    """

    contexts: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    domain: str = "cluster.local"
    taken: frozenset[str] = frozenset()

    def rank(self, claimant: Claimant) -> tuple[int, int]:
        """The places of a claimant's context and namespace in what was asked for."""
        return (
            _place(claimant.context, self.contexts),
            _place(claimant.namespace, self.namespaces),
        )


class Names(msgspec.Struct, frozen=True):
    """Each host name's owner; and the short names that are left out because several want them."""

    owners: Mapping[str, Claimant]
    contested: tuple[str, ...] = ()

    def by_claimant(self) -> dict[Claimant, tuple[str, ...]]:
        """The names of each claimant, the shortest first."""
        found: dict[Claimant, list[str]] = {}
        for name in sorted(self.owners, key=lambda name: (len(name), name)):
            found.setdefault(self.owners[name], []).append(name)
        return {claimant: tuple(names) for claimant, names in found.items()}


class _Bid(msgspec.Struct, frozen=True, order=True):
    """A claim on a name; the least one gets it."""

    form: int
    rank: tuple[int, int]
    claimant: Claimant


def full_name(claimant: Claimant, domain: str) -> str:
    """Return the name that the cluster's DNS has for it."""
    return f"{_short(claimant)}.{claimant.namespace}.svc.{domain}"


def names_of(claimants: Iterable[Claimant], scope: Scope) -> Names:
    """Share the names out. claimants: Services of all kinds, and the pods of headless ones."""
    bids: dict[str, list[_Bid]] = {}
    for claimant in set(claimants):
        for name, bid in _bids(claimant, scope):
            bids.setdefault(name, []).append(bid)
    owners, contested = {}, []
    for name in sorted(bids.keys() - _OF_THE_HOST - scope.taken):
        best = min(bids[name])
        if best.form == _SHORT and len(bids[name]) > 1 and not _is_of_the_first(best, scope):
            contested.append(name)
        else:
            owners[name] = best.claimant
    return Names(owners, tuple(contested))


def _is_of_the_first(bid: _Bid, scope: Scope) -> bool:
    """Whether it is of the namespace, and the context, that were asked for first."""
    return bid.rank[0] == 0 and bid.claimant.namespace in scope.namespaces[:1]


def _bids(claimant: Claimant, scope: Scope) -> Iterator[tuple[str, _Bid]]:
    short, namespace = _short(claimant), claimant.namespace
    forms = {
        _FULL: full_name(claimant, scope.domain),
        _SVC: f"{short}.{namespace}.svc",
        _NAMESPACE: f"{short}.{namespace}",
        _SHORT: short,
    }
    if len(scope.contexts) > 1 and (label := context_label(claimant.context)):
        forms[_CONTEXT] = f"{short}.{namespace}.{label}"
    rank = scope.rank(claimant)
    for form, name in forms.items():
        if is_host_name(name):
            yield name, _Bid(form, rank, claimant)


def is_host_name(name: str) -> bool:
    """Whether all of it can stand in a hosts file and in DNS (RFC 1123 2.1; RFC 1035 2.3.4).

    The API server sees to that; nobody does for manifests.
    """
    return len(name) <= 253 and all(map(LABEL.fullmatch, name.split(".")))


def _short(claimant: Claimant) -> str:
    return f"{claimant.pod}.{claimant.name}" if claimant.pod else claimant.name


def _place(word: str, order: tuple[str, ...]) -> int:
    return order.index(word) if word in order else len(order)


def context_label(context: str) -> str:
    """Return a context's name as a label of host names, or "" where nothing of it can be one.

    arn:aws:eks:eu-west-1:1:cluster/shop is arn-aws-eks-eu-west-1-1-cluster-shop.
    """
    label = re.sub(r"[^a-z0-9]+", "-", context.lower()).strip("-")
    return label if LABEL.fullmatch(label) else ""
