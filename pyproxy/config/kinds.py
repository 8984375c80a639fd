"""The kinds of values that fields of a configuration file have: how each is read and written."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple, NewType, get_args

from pyproxy.config.durations import format_duration, parse_duration
from pyproxy.config.proxy import (
    NodePortAddresses,
    format_node_port_addresses,
    parse_cluster_cidr,
    parse_node_port_addresses,
)
from pyproxy.model.addresses import Cidr, join_host_port, parse_address

Seconds = NewType("Seconds", float)
NodeName = NewType("NodeName", str)
Address = NewType("Address", str)  # in canonical text
WorkerCount = NewType("WorkerCount", int)
AUTO_WORKERS = WorkerCount(-1)
MAX_WORKERS = 64

_HOST_PORT = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<v4>[^:\[\]]*)):(?P<port>\d{1,9})", re.ASCII)

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*")


class HostPort(NamedTuple):
    """Where an HTTP port listens."""

    address: str
    port: int


# Their kinds differ in the port that is meant when none is written.
HealthAddress = NewType("HealthAddress", HostPort)
MetricsAddress = NewType("MetricsAddress", HostPort)
PageAddress = NewType("PageAddress", HostPort)
NO_PAGE = PageAddress(HostPort("", 0))
HostNames = NewType("HostNames", tuple[str, ...])


class Kind(NamedTuple):
    """`read` raises ValueError with what is wrong, or ConfigError with faults that name the field.

    `write` gives plain data that reads as the same value. `name` is for the documentation.
    """

    name: str
    read: Callable[[Any], Any]
    write: Callable[[Any], Any]


def kind_of(annotation: Any) -> Kind:
    """Return the kind of a field from its type: one of the table below, or a Literal of texts."""
    return KINDS[annotation] if annotation in KINDS else _choice(get_args(annotation))


def _choice(words: tuple[str, ...]) -> Kind:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            allowed = ", ".join(word for word in words if word)
            raise ValueError(f"is none of {allowed}")
        return value

    return Kind(" or ".join(f"`{word}`" for word in words if word), read, _as_it_is)


def _as_it_is(value: Any) -> Any:
    return value


def _of(words: str, *types: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) not in types:  # exactly: True is an int to Python, but no number to a person
            raise ValueError(f"is not {words}")
        return value

    return read


_text = _of("a text", str)
_list = _of("a list", list)


def _read_seconds(value: Any) -> float:
    # A bare number has no unit, and Go takes none either.
    return parse_duration(value if isinstance(value, str) else "")


def _read_node_name(value: Any) -> str:
    name: str = _text(value).strip().lower()  # 9.1
    if not name:
        raise ValueError("is blank")
    return name


def _read_address(value: Any) -> str:
    text = _text(value)
    try:
        return parse_address(text)
    except ValueError as fault:
        raise ValueError("is not an IP address") from fault


def _read_worker_count(value: Any) -> int:
    if value == "auto":
        return AUTO_WORKERS
    if type(value) is not int or not 0 <= value <= MAX_WORKERS:
        raise ValueError(f"is neither auto nor a whole number from 0 to {MAX_WORKERS}")
    return value


def _write_worker_count(value: int) -> int | str:
    return "auto" if value == AUTO_WORKERS else value


def _read_host_port(default_port: int) -> Callable[[Any], HostPort]:
    def read(value: Any) -> HostPort:
        text = _text(value)
        found = _HOST_PORT.fullmatch(text)
        try:
            # A bare IPv6 address is one host; with a port it stands in brackets.
            address = parse_address((found["v6"] or found["v4"]) if found else text)
        except ValueError as fault:
            raise ValueError("is not IP:PORT") from fault
        port = int(found["port"]) if found else default_port
        if not 1 <= port <= 65535:
            raise ValueError("has a port that is not within 1 to 65535")
        return HostPort(address, port)

    return read


def _read_page_address(value: Any) -> HostPort:
    return NO_PAGE if value == "" else _read_host_port(10290)(value)


def _write_page_address(value: HostPort) -> str:
    return "" if value == NO_PAGE else _write_host_port(value)


def _read_host_names(value: Any) -> tuple[str, ...]:
    names = tuple(_list(value))
    for name in names:
        if not isinstance(name, str) or not _HOST_NAME.fullmatch(name):
            raise ValueError(f"has {name!r}, which is no host name; without a port, please")
    return names


def _read_node_port_addresses(value: Any) -> NodePortAddresses:
    return parse_node_port_addresses([str(text) for text in _list(value)])


def _read_cluster_cidr(value: Any) -> tuple[Cidr, ...]:
    return parse_cluster_cidr(_text(value))


def _write_cluster_cidr(value: tuple[Cidr, ...]) -> str:
    return ",".join(map(str, value))


def _write_host_port(value: HostPort) -> str:
    return join_host_port(*value)


KINDS: dict[Any, Kind] = {
    str: Kind("text", _text, _as_it_is),
    bool: Kind("`true` or `false`", _of("true or false", bool), _as_it_is),
    int: Kind("number", _of("a whole number", int), _as_it_is),
    float: Kind("number", _of("a number", int, float), _as_it_is),
    list: Kind("list", _list, _as_it_is),
    object: Kind("anything", _as_it_is, _as_it_is),
    dict: Kind("mapping", _of("a mapping", dict), _as_it_is),
    Seconds: Kind("duration", _read_seconds, format_duration),
    NodeName: Kind("text", _read_node_name, _as_it_is),
    Address: Kind("IP address", _read_address, _as_it_is),
    WorkerCount: Kind("`auto` or number", _read_worker_count, _write_worker_count),
    HealthAddress: Kind("IP:PORT", _read_host_port(10256), _write_host_port),
    MetricsAddress: Kind("IP:PORT", _read_host_port(10249), _write_host_port),
    PageAddress: Kind("IP:PORT", _read_page_address, _write_page_address),
    HostNames: Kind("list", _read_host_names, list),
    NodePortAddresses: Kind("list", _read_node_port_addresses, format_node_port_addresses),
    tuple[Cidr, ...]: Kind("CIDR, or two by a comma", _read_cluster_cidr, _write_cluster_cidr),
}
