"""Sections of a configuration file as frozen structs: reading, writing and listing their fields.

A section's fields are its whole description: the type says how a value is read, `doc` what it means
and within which bounds, the default what holds without it. Reading gathers all faults on the way.
"""

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec

from pyproxy.config.kinds import KINDS, Kind, Seconds, kind_of
from pyproxy.errors import ConfigError


def wire_name(name: str) -> str:
    """Return a field's name in the file: cluster_cidr is clusterCIDR, sync_period_s syncPeriod."""
    first, *rest = name.removesuffix("_s").split("_")
    return first + "".join("CIDR" if word == "cidr" else word.capitalize() for word in rest)


class Section(msgspec.Struct, frozen=True, kw_only=True, rename=wire_name):
    """A mapping of a configuration file, or a part of one."""


S = TypeVar("S", bound=Section)


class Doc(NamedTuple):
    """What a field means, and the bounds of its number."""

    text: str
    more_than: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    def check(self, value: Any) -> None:
        """Raise ValueError for a number out of bounds."""
        if self.more_than is not None and value <= self.more_than:
            raise ValueError(f"is not more than {self.more_than:g}")
        if self.at_least is not None and value < self.at_least:
            raise ValueError(f"is less than {self.at_least:g}")
        if self.at_most is not None and value > self.at_most:
            raise ValueError(f"is more than {self.at_most:.10g}")


class Field(NamedTuple):
    """One field: its name in the section and in the file, and either a kind or a section's type."""

    name: str
    wire_name: str
    doc: Doc
    kind: Kind | None
    section: type[Section] | None


def fields_of(section: type[Section]) -> Iterator[Field]:
    """The fields of a section in the order of their definition."""
    for field in msgspec.structs.fields(section):
        base, doc = _split(field.type)
        if isinstance(base, type) and issubclass(base, Section):
            yield Field(field.name, field.encode_name, doc, None, base)
        else:
            yield Field(field.name, field.encode_name, doc, kind_of(base), None)


def _split(annotation: Any) -> tuple[Any, Doc]:
    """Take apart Annotated[X, doc] and X | None."""
    doc = Doc("")
    if get_origin(annotation) is Annotated:
        annotation, doc = get_args(annotation)
    if get_origin(annotation) in {Union, types.UnionType}:
        annotation = next(part for part in get_args(annotation) if part is not types.NoneType)
    return annotation, doc


class NoEffect(NamedTuple):
    """A field that is known and has no effect: what it would take, and why it is of no use."""

    annotation: Any
    why: str


class Reader:
    """Reads one document. `faults` and `unused` hold a line each that begins with the field.

    no_effect: by the field's path. is_zero_unset: whether a zero value stands for the default,
    as in kube-proxy's v1alpha1 (`defaults.go`); kubeadm writes every field so.
    """

    def __init__(
        self, no_effect: Mapping[str, NoEffect] | None = None, *, is_zero_unset: bool = False
    ) -> None:
        self.faults: list[str] = []
        self.unused: list[str] = []
        self._no_effect = no_effect or {}
        self._is_zero_unset = is_zero_unset

    def section(self, kind: type[S], data: Mapping[str, Any], path: str = "") -> S:
        """Read a mapping; what has a fault gets its default."""
        left = dict(data)
        values: dict[str, Any] = {}
        for field in fields_of(kind):
            raw = left.pop(field.wire_name, None)
            value = self._value(field, raw, path + field.wire_name)
            if value is not None:
                values[field.name] = value
        for name, raw in left.items():
            self._leave(f"{path}{name}", raw)
        return kind(**values)

    def _value(self, field: Field, raw: Any, path: str) -> Any:
        """The value that was written, or None for the default."""
        if raw is None or (self._is_zero_unset and raw == ""):
            return None
        if field.section is not None:
            if isinstance(raw, dict):
                return self.section(field.section, raw, f"{path}.")
            self.faults.append(f"{path}: {raw!r} is not a mapping")
            return None
        assert field.kind is not None
        return self._read(field.kind, field.doc, raw, path)

    def _read(self, kind: Kind, doc: Doc, raw: Any, path: str) -> Any:
        try:
            value = kind.read(raw)
            if self._is_zero_unset and kind is KINDS[Seconds] and value == 0:
                return None
            doc.check(value)
        except ConfigError as fault:
            self.faults.extend(fault.faults)
        except ValueError as fault:
            self.faults.append(f"{path}: {raw!r} {fault}")
        else:
            return value
        return None

    def _leave(self, path: str, raw: Any) -> None:
        """Report a field that no section has; one that asks for nothing is passed over."""
        known = self._no_effect.get(path)
        if known is None:
            self.unused.append(f"{path} is not known, and has no effect here")
        elif not _is_zero(raw):
            base, doc = _split(known.annotation)
            if self._read(kind_of(base), doc, raw, path) is not None:
                self.unused.append(f"{path} has no effect here: {known.why}")


def _is_zero(raw: Any) -> bool:
    """Whether a value is one of Go's zero values, as kubeadm writes every field that is not set."""
    if isinstance(raw, dict):
        return all(map(_is_zero, raw.values()))
    return not raw or raw in ("0", "0s")


def write(section: Section) -> dict[str, Any]:
    """Return plain data that reads as the same section; what is None is left out."""
    data: dict[str, Any] = {}
    for field in fields_of(type(section)):
        value = getattr(section, field.name)
        if value is not None:
            data[field.wire_name] = field.kind.write(value) if field.kind else write(value)
    return data
