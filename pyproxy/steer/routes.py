"""The policy route: packets with the mark are delivered to this host, whatever their address.

One rule, `fwmark MARK/MARK lookup TABLE`, and one routing table whose only route is
`local default dev lo`; of each IP family that is switched on. Nothing else is touched, and what
somebody else holds is not taken over.
"""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyproxy.errors import PyproxyError
from pyproxy.model.addresses import Family

_FAMILIES: dict[Family, int] = {"IPv4": socket.AF_INET, "IPv6": socket.AF_INET6}
_ANYWHERE: dict[Family, str] = {"IPv4": "0.0.0.0/0", "IPv6": "::/0"}
_RTN_LOCAL = 2  # rtnetlink(7)
_RT_SCOPE_HOST = 254
_RTPROT_STATIC = 4
_FR_ACT_TO_TBL = 1  # linux/fib_rules.h

# Not there when IPv6 is left out of the kernel or switched off at boot; 1 when switched off later.
_IPV6_SWITCH = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6")


class RouteError(PyproxyError):
    """The rule or the route cannot be made. The text names the setting to change, if one helps."""


class PolicyRoute:
    """The rule and the route. Its methods ask the kernel and wait for it: call them in a thread.

    mark: a bit of the packet mark. table, priority: of routing table and rule; nobody else's.
    """

    def __init__(self, mark: int, table: int, priority: int) -> None:
        self._mark = mark
        self._table = table
        self._priority = priority

    def ensure(self) -> bool:
        """Make what is missing; return whether anything was. Raises RouteError."""
        is_new = False
        with _netlink() as netlink:
            loopback = netlink.link_lookup(ifname="lo")[0]
            found = {family: self._found(netlink, family) for family in families()}
            for family, (rules, routes) in found.items():  # of both, before anything is made
                self._refuse_strangers(family, rules, routes, loopback)
            for family, (rules, routes) in found.items():
                # The route first: a marked packet that finds none would be routed elsewhere.
                if not routes:
                    netlink.route("add", **self._route(family, loopback))
                    is_new = True
                if not rules:
                    netlink.rule("add", **self._rule(family))
                    is_new = True
        return is_new

    def remove(self) -> bool:
        """Remove what is ours; return whether anything was there. Raises RouteError."""
        was_there = False
        with _netlink() as netlink:
            loopback = netlink.link_lookup(ifname="lo")[0]
            for family in families():
                rules, routes = self._found(netlink, family)
                for rule in rules:
                    if self._is_rule(rule):
                        netlink.rule("del", **self._rule(family))
                        was_there = True
                for route in routes:
                    if _is_route(route, loopback):
                        netlink.route("del", **self._route(family, loopback))
                        was_there = True
        return was_there

    def _found(self, netlink: Any, family: Family) -> tuple[list[Any], list[Any]]:
        """The rules that share our priority or table, and the routes of the table."""
        number = _FAMILIES[family]
        rules = [
            rule
            for rule in netlink.get_rules(family=number)
            if self._priority == rule.get_attr("FRA_PRIORITY") or self._table == _table_of(rule)
        ]
        routes = [
            route
            for route in netlink.get_routes(family=number, table=self._table)
            if route.get_attr("RTA_TABLE") == self._table
        ]
        return rules, routes

    def _refuse_strangers(
        self, family: Family, rules: list[Any], routes: list[Any], loopback: int
    ) -> None:
        for rule in rules:
            if self._is_rule(rule):
                continue
            if rule.get_attr("FRA_PRIORITY") == self._priority:
                raise RouteError(
                    f"an {family} rule of somebody else has priority {self._priority}:"
                    " set another steering rule priority"
                )
            raise RouteError(
                f"an {family} rule of somebody else (priority {rule.get_attr('FRA_PRIORITY')})"
                f" leads to routing table {self._table}: set another steering route table"
            )
        for route in routes:
            if not _is_route(route, loopback):
                raise RouteError(
                    f"routing table {self._table} holds an {family} route of somebody else"
                    f" (to {route.get_attr('RTA_DST') or 'default'}): set another steering route"
                    " table"
                )

    def _is_rule(self, rule: Any) -> bool:
        return bool(
            rule["action"] == _FR_ACT_TO_TBL
            and rule.get_attr("FRA_PRIORITY") == self._priority
            and _table_of(rule) == self._table
            and rule.get_attr("FRA_FWMARK") == self._mark
            and rule.get_attr("FRA_FWMASK") == self._mark
        )

    def _rule(self, family: Family) -> dict[str, Any]:
        return {
            "family": _FAMILIES[family],
            "priority": self._priority,
            "table": self._table,
            "fwmark": self._mark,
            "fwmask": self._mark,
        }

    def _route(self, family: Family, loopback: int) -> dict[str, Any]:
        return {
            "family": _FAMILIES[family],
            "table": self._table,
            "type": "local",
            "dst": _ANYWHERE[family],
            "oif": loopback,
            "scope": _RT_SCOPE_HOST if family == "IPv4" else 0,  # IPv6 knows no scopes
            "proto": _RTPROT_STATIC,
        }


def families() -> tuple[Family, ...]:
    """The IP families that are switched on in this network namespace."""
    try:
        is_on = _IPV6_SWITCH.read_text().strip() == "0"
    except OSError:
        is_on = False
    return ("IPv4", "IPv6") if is_on else ("IPv4",)


def _table_of(rule: Any) -> int:
    # The header's field is of one byte; larger numbers are in the attribute (rtnetlink(7)).
    return int(rule.get_attr("FRA_TABLE") or rule["table"])


def _is_route(route: Any, loopback: int) -> bool:
    return bool(
        route["type"] == _RTN_LOCAL
        and route["dst_len"] == 0
        and route.get_attr("RTA_OIF") == loopback
    )


@contextmanager
def _netlink() -> Iterator[Any]:
    from pyroute2 import IPRoute, NetlinkError  # takes 70 ms to import, and only an agent needs it

    try:
        with IPRoute() as netlink:
            yield netlink
    except NetlinkError as fault:
        if fault.code in {errno.EPERM, errno.EACCES}:
            raise RouteError("cannot set routes: steering needs CAP_NET_ADMIN") from fault
        raise RouteError(f"cannot set the routes of steering: {fault}") from fault
    except OSError as fault:
        raise RouteError(f"cannot ask the kernel for its routes: {fault}") from fault
