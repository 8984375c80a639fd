"""`pyproxy services`, `endpoints` and `connections`: what the running agent has, as a table."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pyproxy.cli import control_client
from pyproxy.cli.paint import Cell, Paint, duration, lines, size
from pyproxy.errors import ConfigError

Row = dict[str, Any]
INTERVAL_S = 2.0

_EPILOG = """\
exit status: 0 answered; 1 there is no such Service; 2 no agent answers, or wrong usage
"""


class Column(NamedTuple):
    """A column: how it is called, what stands in it, whether only the wide table has it.

    sort: what it is sorted by, where that is not what stands in it; numbers with the most first.
    """

    name: str
    cell: Callable[[Row], str]
    sort: Callable[[Row], Any] | None = None
    is_wide: bool = False


class Listing(NamedTuple):
    """One of the commands."""

    name: str
    help: str
    columns: tuple[Column, ...]


def _service(row: Row) -> str:
    return f"{row['namespace']}/{row['name']}"


def _port(row: Row) -> str:
    return f"{row['port'] or '-'}/{row['protocol']}"


def _number(key: str) -> Column:
    return Column(key.upper(), lambda row: str(row[key]), lambda row: row[key])


def _bytes(key: str, name: str) -> Column:
    return Column(name, lambda row: size(row[key]), lambda row: row[key] or 0)


def _frontends(row: Row) -> str:
    if row["not_proxied"]:
        return Cell(row["not_proxied"], "dim")
    found = row["frontends"]
    kind = "bad" if any(f["fault"] for f in found) else ""
    first = f"{found[0]['address']}:{found[0]['port']}" if found else "-"
    return Cell(first + (f" +{len(found) - 1}" if len(found) > 1 else ""), kind)


def _all_frontends(row: Row) -> str:
    return ",".join(
        f"{f['kind']}={f['address']}:{f['port']}" + (f" ({f['fault']})" if f["fault"] else "")
        for f in row["frontends"]
    )


def _usable(row: Row) -> str:
    usable, total = row["endpoints"]["usable"], row["endpoints"]["total"]
    kind = "" if row["not_proxied"] else "good" if usable else "bad"
    return Cell(f"{usable}/{total}", kind)


def _failed(row: Row) -> int:
    attempts: dict[str, int] = row["connect_attempts"]
    return sum(attempts.values()) - attempts.get("ok", 0)


def _failures(row: Row) -> str:
    failed = _failed(row)
    return Cell(failed, "warn") if failed else "0"


def _state(row: Row) -> str:
    if row["ejected_by"]:
        return Cell(f"ejected {duration(row['ejected_seconds'])}", "bad")
    if row["ready"]:
        return Cell("ready", "good")
    if row["terminating"]:
        return Cell("terminating" if row["serving"] else "terminated", "warn")
    return Cell("not ready", "bad")


SERVICES = Listing(
    "services",
    "list the Services, where they are served, and what goes through them",
    (
        Column("SERVICE", _service),
        Column("PORT", _port),
        Column("ADDRESS", _frontends),
        Column("ENDPOINTS", _usable, lambda row: row["endpoints"]["usable"]),
        Column(
            "ACTIVE",
            lambda row: str(row["connections"]["active"]),
            lambda row: row["connections"]["active"],
        ),
        Column(
            "OPENED",
            lambda row: str(row["connections"]["opened"]),
            lambda row: row["connections"]["opened"],
        ),
        Column("FAILED", _failures, _failed),
        _bytes("bytes_to_endpoint", "SENT"),
        _bytes("bytes_to_client", "RECEIVED"),
        Column("TYPE", lambda row: row["type"], is_wide=True),
        Column(
            "EJECTIONS",
            lambda row: str(row["ejections"]),
            lambda row: row["ejections"],
            is_wide=True,
        ),
        Column("ADDRESSES", _all_frontends, is_wide=True),
    ),
)
ENDPOINTS = Listing(
    "endpoints",
    "list the endpoints, whether they are used, and their connections",
    (
        Column("SERVICE", _service),
        Column("PORT", _port),
        Column("ENDPOINT", lambda row: row["endpoint"]),
        Column("STATE", _state),
        Column("USED", lambda row: "yes" if row["used"] else Cell("no", "dim")),
        _number("connections"),
        Column("NODE", lambda row: row["node"] or "-"),
        Column("POD", lambda row: row["pod"] or "-", is_wide=True),
        Column("ZONES", lambda row: ",".join(row["zones"]) or "-", is_wide=True),
        Column("EJECTED-BY", lambda row: str(row["ejected_by"]), is_wide=True),
    ),
)
CONNECTIONS = Listing(
    "connections",
    "list the live TCP connections and UDP flows",
    (
        Column("SERVICE", _service),
        Column("PORT", _port),
        Column("CLIENT", lambda row: row["client"]),
        Column("ENDPOINT", lambda row: row["endpoint"] or "-"),
        Column(
            "STATE",
            lambda row: Cell("connected", "good") if row["connected"] else Cell("waiting", "warn"),
        ),
        Column(
            "AGE", lambda row: duration(row["age_seconds"]), lambda row: row["age_seconds"] or 0.0
        ),
        _bytes("bytes_to_endpoint", "SENT"),
        _bytes("bytes_to_client", "RECEIVED"),
        Column("ADDRESS", lambda row: row["frontend"], is_wide=True),
        Column("POD", lambda row: row["pod"] or "-", is_wide=True),
        Column(
            "IDLE",
            lambda row: duration(row["idle_seconds"]),
            lambda row: row["idle_seconds"] or 0.0,
            is_wide=True,
        ),
    ),
)
LISTINGS = (SERVICES, ENDPOINTS, CONNECTIONS)


def register(commands: Any) -> None:
    """Add the commands to the parser."""
    for listing in LISTINGS:
        command = commands.add_parser(
            listing.name,
            help=listing.help,
            description=f"{listing.help.capitalize()}, as the running agent has them.",
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_argument("name", nargs="?", metavar="NAME", help="NAME or NAMESPACE/NAME")
        command.add_argument("-n", "--namespace", help="only of this one; else all, or default")
        command.add_argument("-o", "--output", choices=("table", "wide", "json", "yaml"))
        names = [column.name.lower() for column in listing.columns]
        command.add_argument("--sort", choices=names, metavar="COLUMN", help=", ".join(names))
        command.add_argument("--watch", action="store_true", help="again every two seconds")
        control_client.add_socket(command)
        command.set_defaults(main=main, listing=listing)


def main(arguments: argparse.Namespace) -> int:
    """Print the list, once or until interrupted."""
    target = f"/{arguments.listing.name}{_query(arguments)}"
    answer = control_client.ask(arguments.control_socket, "GET", target)
    _print(arguments, answer)
    while arguments.watch:
        import time

        time.sleep(INTERVAL_S)
        answer = control_client.ask(arguments.control_socket, "GET", target)
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[H\x1b[2J")  # home, clear
        elif arguments.output in {None, "table", "wide"}:
            print()
        _print(arguments, answer)
    return 0


def _query(arguments: argparse.Namespace) -> str:
    from urllib.parse import urlencode

    namespace, name = arguments.namespace or "", arguments.name or ""
    if "/" in name:
        given, name = name.split("/", 1)
        if namespace and given != namespace:
            raise ConfigError(f"{arguments.name} is not in namespace {namespace}")
        namespace = given
    elif name:
        namespace = namespace or "default"
    wanted = {key: value for key, value in (("namespace", namespace), ("name", name)) if value}
    return f"?{urlencode(wanted)}" if wanted else ""


def _print(arguments: argparse.Namespace, answer: dict[str, Any]) -> None:
    listing = arguments.listing
    rows = answer[listing.name] = _sorted(answer[listing.name], listing, arguments.sort)
    if arguments.output == "json":
        import json

        print(json.dumps(answer, ensure_ascii=False), flush=True)
    elif arguments.output == "yaml":
        import yaml

        print(yaml.safe_dump(answer, sort_keys=False, explicit_start=arguments.watch), end="")
    else:
        columns = [c for c in listing.columns if arguments.output == "wide" or not c.is_wide]
        _print_table(columns, rows)
    sys.stdout.flush()
    if not answer.get("complete", True):
        print(
            f"pyproxy: {len(rows)} of {answer['total']} are shown; name a Service, or a namespace"
            " with -n, to see the others",
            file=sys.stderr,
        )


def _print_table(columns: Sequence[Column], rows: list[Row]) -> None:
    head = [column.name for column in columns]
    table = [[column.cell(row) for column in columns] for row in rows]
    for line in lines(head, table, Paint()):
        print(line)


def _sorted(rows: list[Row], listing: Listing, name: str | None) -> list[Row]:
    if name is None:
        return rows
    column = next(c for c in listing.columns if c.name.lower() == name)
    return sorted(rows, key=column.sort or column.cell, reverse=column.sort is not None)
