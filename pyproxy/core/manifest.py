"""YAML text to API objects: several documents, and lists, in one text.

A syntax error costs the whole text (ConfigError with its line); an object that cannot be read costs
that object only, and is told with the line at which it begins. Kinds that a proxy does not read
(a Deployment, say) are passed over in silence: manifests usually hold more than Services.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import yaml

from pyproxy.config import UNREADABLE_YAML
from pyproxy.core.decode import convert
from pyproxy.errors import ConfigError, DecodeError
from pyproxy.model.events import Object, Resource

_RESOURCES: dict[tuple[str, str], Resource] = {
    ("", "Service"): "services",
    ("", "Node"): "nodes",
    ("discovery.k8s.io", "EndpointSlice"): "endpointslices",
    ("networking.k8s.io", "ServiceCIDR"): "servicecidrs",
}
_KINDS = {kind for _, kind in _RESOURCES}


class Manifest(NamedTuple):
    """The objects of one text with their resources, and what was wrong with others."""

    objects: tuple[tuple[Resource, Object], ...]
    faults: tuple[str, ...]


# The C parser reads ten times faster; it is missing where PyYAML was built without libyaml.
_Base: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[valid-type, misc]  # one of two classes, known at run time
    """Leaves timestamps as the text they are: the API has them as strings."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in _Base.yaml_implicit_resolvers.items()
    }


def parse_manifest(text: str, path: str) -> Manifest:
    """Parse a text; `path` stands in the messages only. Raises ConfigError for broken YAML."""
    objects: list[tuple[Resource, Object]] = []
    faults: list[str] = []
    for line, document in _documents(text, path):
        try:
            items = list(_items(document))
        except RecursionError as fault:  # an alias may make a list an item of itself
            raise ConfigError(f"{path}:{line}: lists are nested too deep") from fault
        for item in items:
            try:
                found = _read(item)
            except DecodeError as fault:
                faults.append(f"{path}:{line}: {fault}")
                continue
            if found is not None:
                objects.append(found)
    return Manifest(tuple(objects), tuple(faults))


def _documents(text: str, path: str) -> Iterator[tuple[int, Any]]:
    """Yield each document with the number of its first line."""
    line = 1
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            line = node.start_mark.line + 1
            yield line, loader.construct_document(node)
    except yaml.MarkedYAMLError as fault:
        line = fault.problem_mark.line + 1 if fault.problem_mark else line
        raise ConfigError(f"{path}:{line}: not YAML: {fault.problem}") from fault
    except UNREADABLE_YAML as fault:
        raise ConfigError(f"{path}:{line}: not YAML: {' '.join(str(fault).split())}") from fault


def _items(document: Any) -> Iterator[Any]:
    """The objects of a document: itself, or what is in a List (kubectl's) or a ServiceList."""
    kind = document.get("kind") if isinstance(document, dict) else None
    items = document.get("items") if isinstance(document, dict) else None
    if not isinstance(kind, str) or not kind.endswith("List") or not isinstance(items, list):
        yield document
        return
    # The items of a typed list may leave out what they are.
    given = {} if kind == "List" else {"apiVersion": document.get("apiVersion"), "kind": kind[:-4]}
    for item in items:
        yield from _items({**given, **item} if isinstance(item, dict) else item)


def _read(item: Any) -> tuple[Resource, Object] | None:
    if item is None:
        return None  # nothing between two lines of ---
    if not isinstance(item, dict) or not isinstance(item.get("kind"), str):
        raise DecodeError("this is no Kubernetes object: it has no kind")
    version = str(item.get("apiVersion") or "")
    group = version.rpartition("/")[0]
    resource = _RESOURCES.get((group, item["kind"]))
    if resource is None:
        if item["kind"] in _KINDS:
            raise DecodeError(f"apiVersion {version!r} is not that of kind {item['kind']}")
        return None
    value = convert(resource, item)
    if not value.name:
        raise DecodeError(f"this {item['kind']} has no metadata.name")
    return resource, value
