"""`pyproxy status`: whether the running agent is well, and if not, why not."""

import argparse
from typing import Any

from pyproxy.cli import control_client, same_container
from pyproxy.cli.paint import Paint, duration, size

_EXIT = {"healthy": 0, "degraded": 1, "down": 2}
_SERVING = {**_EXIT, "degraded": 0}
_KINDS = {"healthy": "good", "degraded": "warn", "down": "bad"}
_MOST_UNBOUND = 5

_EPILOG = """\
exit status: 0 healthy; 1 degraded: it serves, but something is not as it should be; 2 down: it
takes no clients, or no agent answers. With --serving 0 also when it is degraded
"""


def register(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "status",
        help="say whether the running agent is well, and if not, why not",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("-o", "--output", choices=("text", "json", "yaml"), default="text")
    command.add_argument(
        "--serving",
        action="store_true",
        help="ask only whether the agent of this container takes clients: for a startup probe",
    )
    control_client.add_socket(command)
    command.set_defaults(main=main)


def main(arguments: argparse.Namespace) -> int:
    """Print the status; the exit status says it too."""
    answer = control_client.ask(arguments.control_socket, "GET", "/status")
    if arguments.serving:
        same_container.check(arguments.control_socket)
    if arguments.output == "json":
        import json

        print(json.dumps(answer, ensure_ascii=False))
    elif arguments.output == "yaml":
        import yaml

        print(yaml.safe_dump(answer, sort_keys=False), end="")
    else:
        for line in screen(answer, Paint()):
            print(line)
    return (_SERVING if arguments.serving else _EXIT).get(answer["state"], 2)


def screen(answer: dict[str, Any], paint: Paint) -> list[str]:
    """The status on one screen."""
    state = answer["state"]
    agent = answer["agent"]
    told = [
        f"{paint(state, _KINDS.get(state, 'bad'))}: pyproxy {answer['pyproxy']} on {agent['node']}"
    ]
    told += [f"  {paint('!', 'warn')} {reason}" for reason in answer["reasons"]]
    parts = (
        ("agent", f"pid {agent['pid']}, up {duration(agent['uptime_seconds'])}"),
        ("source", _source(answer["source"])),
        ("table", _table(answer["table"])),
        ("workers", _workers(answer)),
        ("steering", _steering(answer["steering"])),
        ("traffic", _traffic(answer["traffic"])),
    )
    told += [f"{paint(f'{name:9}', 'bold')} {text}" for name, text in parts]
    told += _unbound(answer["unbound"])
    return told + _errors(answer, paint)


def _source(source: dict[str, Any]) -> str:
    states = sorted(set(source["watches"].values())) or ["not started"]
    text = f"{source['kind']}: {'complete' if source['synced'] else 'incomplete'}"
    if states == ["watching"]:
        text += f", watching {len(source['watches'])} resources"
    else:
        text += ", " + ", ".join(f"{name} {state}" for name, state in source["watches"].items())
    if source["restarts"]:
        text += f"; {source['restarts']} restarts"
    if source["undecodable"]:
        text += f"; {source['undecodable']} objects cannot be read"
    return text


def _table(table: dict[str, Any]) -> str:
    return (
        f"{table['services']} Services, {table['listening']} of {table['frontends']} addresses and"
        f" ports listened on, generation {table['generation']}"
    )


def _workers(answer: dict[str, Any]) -> str:
    workers = answer["workers"]
    if not workers:
        return "none: the agent forwards itself"
    serving = sum(worker["serving"] for worker in workers)
    live = ", ".join(str(worker["connections"]) for worker in workers)
    restarts = answer["worker_restarts"]
    text = f"{serving} serve, with {live} connections"
    return f"{text}; {restarts} restarts" if restarts else text


def _steering(steering: dict[str, Any]) -> str:
    if steering["mode"] == "none":
        return "none: this host's own addresses only"
    return (
        f"{steering['mode']}: {steering['transactions']} transactions,"
        f" {steering['failures']} failed, {steering['repairs']} repairs"
    )


def _traffic(traffic: dict[str, Any]) -> str:
    return (
        f"{traffic['active']} connections and flows, {traffic['opened']} since the start;"
        f" {size(traffic['bytes_to_endpoint'])} sent, {size(traffic['bytes_to_client'])} received"
    )


def _unbound(unbound: list[dict[str, Any]]) -> list[str]:
    told = ["not listened on:"] if unbound else []
    told += [
        f"  {at['address']}:{at['port']}/{at['protocol']}: {at['reason']}"
        for at in unbound[:_MOST_UNBOUND]
    ]
    if len(unbound) > _MOST_UNBOUND:
        told.append("  and others; all are in: pyproxy status -o json")
    return told


def _errors(answer: dict[str, Any], paint: Paint) -> list[str]:
    errors = answer["errors"]
    if not errors:
        return []
    told = [f"errors of the last {answer['errors_window_seconds'] / 60:.0f} minutes:"]
    for error in errors:
        what = f"{'connect ' * (error['kind'] == 'connect')}{error['reason']}"
        port = f":{error['port']}" if error["port"] else ""
        service = f"{error['namespace']}/{error['name']}{port}"
        told.append(f"  {paint(str(error['count']), 'warn')} x {what}  {service}")
    return told
