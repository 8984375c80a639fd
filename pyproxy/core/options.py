"""What a Service's `pyproxy.io/*` annotations ask for: text in, options and problems out.

An annotation that cannot be used is left out, as if it were not there, and told in one line.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from pyproxy.config.durations import format_duration, parse_duration
from pyproxy.config.kinds import kind_of
from pyproxy.model.options import DEFAULT_OPTIONS, Balance, OnEndpointRemoved, ServiceOptions

ANNOTATION_PREFIX = "pyproxy.io/"


class Annotation(NamedTuple):
    """The option that an annotation sets. `read` raises ValueError with what is wrong."""

    option: str
    read: Callable[[str], Any]
    write: Callable[[Any], str] = str


def _switch(on: str) -> tuple[Callable[[str], bool], Callable[[bool], str]]:
    """A bool as one of two words, `on` or "off"."""

    def read(text: str) -> bool:
        if text not in {on, "off"}:
            raise ValueError(f"is none of {on}, off")
        return text == on

    return read, lambda value: on if value else "off"


def _count(text: str) -> int:
    # 18 digits: Python refuses to read thousands of them, and nobody means more.
    if not (text.isascii() and text.isdecimal() and len(text) <= 18 and int(text)):
        raise ValueError("is not a whole number, 1 or more")
    return int(text)


def _duration(text: str) -> float:
    seconds = parse_duration(text)
    if seconds < 0:
        raise ValueError("is less than 0")
    return seconds


def _time(text: str) -> float:
    seconds = parse_duration(text)
    if seconds <= 0:
        raise ValueError("is not more than 0")
    return seconds


ANNOTATIONS = {
    f"{ANNOTATION_PREFIX}{name}": annotation
    for name, annotation in {
        "balance": Annotation("balance", kind_of(Balance).read),
        "slow-start": Annotation("slow_start_s", _duration, format_duration),
        "ejection": Annotation("ejects", *_switch("on")),
        "on-endpoint-removed": Annotation("on_endpoint_removed", kind_of(OnEndpointRemoved).read),
        "max-connections": Annotation("max_connections", _count),
        "idle-timeout": Annotation("idle_timeout_s", _time, format_duration),
        "max-connection-age": Annotation("max_connection_age_s", _time, format_duration),
        "connect-timeout": Annotation("connect_timeout_s", _time, format_duration),
        "proxy-protocol": Annotation("proxy_protocol", *_switch("v2")),
    }.items()
}


def options_of(
    annotations: Mapping[str, str], defaults: ServiceOptions
) -> tuple[ServiceOptions, list[str]]:
    """Return the options of a Service, and a line for each annotation that cannot be used.

    annotations: those of ANNOTATION_PREFIX. Without any, the defaults themselves are returned.
    """
    if not annotations:
        return defaults, []
    asked: dict[str, Any] = {}
    problems = []
    for key, text in sorted(annotations.items()):
        known = ANNOTATIONS.get(key)
        if known is None:
            problems.append(f"metadata.annotations: {key} is not known; {_hint(key)}")
            continue
        try:
            asked[known.option] = known.read(text.strip())
        except ValueError as fault:
            default = _written(known, defaults)
            problems.append(f"metadata.annotations: {key}: {text!r} {fault}; using {default}")
    return msgspec.structs.replace(defaults, **asked), problems


def written(options: ServiceOptions) -> list[str]:
    """Return what is not as it is by default, as annotations would have it: "balance random"."""
    return [
        f"{key.removeprefix(ANNOTATION_PREFIX)} {_written(known, options)}"
        for key, known in ANNOTATIONS.items()
        if getattr(options, known.option) != getattr(DEFAULT_OPTIONS, known.option)
    ]


def _written(known: Annotation, options: ServiceOptions) -> str:
    value = getattr(options, known.option)
    return "the default" if value is None else known.write(value)


def _hint(key: str) -> str:
    near = difflib.get_close_matches(key, ANNOTATIONS, n=1, cutoff=0.8)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(ANNOTATIONS)}"
