"""What a fake API server keeps: objects, their versions, what changed, and the pages handed out.

It speaks plain dicts, and knows no HTTP; the errors it raises are the API's own (`ApiStatus`). One
counter gives every write its resourceVersion, as etcd does.
"""

import base64
import copy
import json
import re
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

from pyproxy.model.events import Resource

Json = dict[str, Any]
Key = tuple[str, str]


class Kind(NamedTuple):
    """How a resource is called in the API."""

    group: str
    version: str
    kind: str
    is_namespaced: bool

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def prefix(self) -> str:
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"


KINDS: dict[Resource, Kind] = {
    "services": Kind("", "v1", "Service", is_namespaced=True),
    "endpointslices": Kind("discovery.k8s.io", "v1", "EndpointSlice", is_namespaced=True),
    "nodes": Kind("", "v1", "Node", is_namespaced=False),
    "servicecidrs": Kind("networking.k8s.io", "v1", "ServiceCIDR", is_namespaced=False),
}
# The field labels that the API server has for each resource; another one is an error 400.
_FIELDS: dict[Resource, set[str]] = {
    "services": {"metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"},
    "endpointslices": {"metadata.name", "metadata.namespace"},
    "nodes": {"metadata.name", "spec.unschedulable"},
    "servicecidrs": {"metadata.name"},
}


class ApiStatus(Exception):  # noqa: N818 (the API calls it so)
    """An error answer: the Status object that the API server sends."""

    def __init__(self, code: int, reason: str, message: str, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.body: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }
        if retry_after_s:
            self.body["details"] = {"retryAfterSeconds": retry_after_s}


class Change(NamedTuple):
    """One write: the object before it and after it, None where there was or is none."""

    version: int
    old: Json | None
    new: Json | None


class Selection:
    """Which objects of a resource a request is about: namespace, label and field selector."""

    def __init__(
        self, resource: Resource, namespace: str = "", labels: str = "", fields: str = ""
    ) -> None:
        self.resource: Resource = resource
        self._namespace = namespace
        self._labels = [_label_term(term) for term in _terms(labels)]
        self._fields = [_field_term(resource, term) for term in _terms(fields)]

    def __contains__(self, value: Json) -> bool:
        metadata = value["metadata"]
        if self._namespace and metadata.get("namespace") != self._namespace:
            return False
        labels = metadata.get("labels") or {}
        return all(_holds(term, labels.get(term.key)) for term in self._labels) and all(
            _holds(term, _field(value, term.key)) for term in self._fields
        )


class _Term(NamedTuple):
    key: str
    wanted: str | None  # None: any value
    is_negated: bool


def _terms(selector: str) -> list[str]:
    return [term.strip() for term in selector.split(",") if term.strip()]


def _label_term(term: str) -> _Term:
    key, operator, wanted = re.split(r"(!=|==?|$)", term, maxsplit=1)
    if operator:
        return _Term(key, wanted, operator == "!=")
    return _Term(key.removeprefix("!"), None, key.startswith("!"))


def _field_term(resource: Resource, term: str) -> _Term:
    parsed = _label_term(term)
    if parsed.key not in _FIELDS[resource]:
        raise ApiStatus(400, "BadRequest", f"field label not supported: {parsed.key}")
    return parsed


def _holds(term: _Term, found: str | None) -> bool:
    if term.wanted is None:
        return (found is None) is term.is_negated
    return (found == term.wanted) is not term.is_negated


def _field(value: Json, path: str) -> str:
    found: Any = value
    for part in path.split("."):
        found = (found or {}).get(part)
    return "" if found is None else str(found)


class FakeStore:
    """The objects of the four resources, and their history since the last compaction."""

    def __init__(self) -> None:
        self._version = 100
        self._compacted = self._version  # a server has no history from before its start
        self._objects: dict[Resource, dict[Key, Json]] = {resource: {} for resource in KINDS}
        self._changes: dict[Resource, list[Change]] = {resource: [] for resource in KINDS}
        self._pages: dict[str, tuple[int, list[Json]]] = {}
        self._expired_tokens: set[str] = set()
        self._node_ports = 0
        self._cluster_ips = 0
        self.pages_to_expire = 0  # so many continue tokens are too old when they are used

    @property
    def version(self) -> int:
        """The resourceVersion of the last write."""
        return self._version

    def create(self, resource: Resource, value: Json) -> Json:
        """Add an object; a Service gets a ClusterIP when it has none. Raises ApiStatus 409."""
        key = _key(value)
        if key in self._objects[resource]:
            message = f'{resource} "{key[1]}" already exists'
            raise ApiStatus(409, "AlreadyExists", message)
        value = copy.deepcopy(value)
        value["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": "2026-01-01T00:00:00Z"}
        if resource == "services":
            self._default_service(value.setdefault("spec", {}))
        return self._write(resource, key, value)

    def update(self, resource: Resource, value: Json) -> Json:
        """Replace an object. Raises ApiStatus 404, and 409 when its resourceVersion is old."""
        old = self.get(resource, *reversed(_key(value)))
        version = value["metadata"].get("resourceVersion")
        if version not in (None, "", old["metadata"]["resourceVersion"]):
            message = f'Operation cannot be fulfilled on {resource} "{value["metadata"]["name"]}"'
            raise ApiStatus(409, "Conflict", message)
        value = copy.deepcopy(value)
        kept = {name: old["metadata"][name] for name in ("uid", "creationTimestamp")}
        value["metadata"] |= kept
        return self._write(resource, _key(value), value)

    def delete(self, resource: Resource, name: str, namespace: str = "") -> None:
        """Remove an object. Raises ApiStatus 404."""
        self.get(resource, name, namespace)
        self._write(resource, (namespace, name), None)

    def get(self, resource: Resource, name: str, namespace: str = "") -> Json:
        """Return a copy of an object. Raises ApiStatus 404."""
        found = self._objects[resource].get((namespace, name))
        if found is None:
            raise ApiStatus(404, "NotFound", f'{resource} "{name}" not found')
        return copy.deepcopy(found)

    def _default_service(self, spec: Json) -> None:
        spec.setdefault("type", "ClusterIP")
        if spec["type"] != "ExternalName" and not spec.get("clusterIP"):
            self._cluster_ips += 1
            spec["clusterIP"] = f"10.96.{self._cluster_ips // 250}.{self._cluster_ips % 250 + 1}"
            spec["clusterIPs"] = [spec["clusterIP"]]
        if spec["type"] in {"NodePort", "LoadBalancer"}:
            for port in spec.get("ports", ()):
                self._node_ports += 1
                port.setdefault("nodePort", 30000 + self._node_ports)

    def _write(self, resource: Resource, key: Key, value: Json | None) -> Json:
        self._version += 1
        objects = self._objects[resource]
        old = objects.pop(key, None)
        if value is not None:
            value["metadata"]["resourceVersion"] = str(self._version)
            objects[key] = value
        self._changes[resource].append(Change(self._version, old, value))
        return copy.deepcopy(value or {})

    # Lists.

    def select(self, selection: Selection) -> list[Json]:
        """Return the selected objects, in the order of their keys, as etcd gives them."""
        objects = self._objects[selection.resource]
        return [objects[key] for key in sorted(objects) if objects[key] in selection]

    def page(self, selection: Selection, limit: int, token: str) -> tuple[int, str, list[Json]]:
        """Return a page: the version of the list, the token of the next page, and the objects.

        All pages are of the moment of the first. Raises ApiStatus 410 when a token has expired, and
        400 when it never was one.
        """
        if token and self.pages_to_expire:
            self.pages_to_expire -= 1
            self.expire_pages()
        if token and token not in self._pages:
            if token not in self._expired_tokens:
                raise ApiStatus(400, "BadRequest", "continue key is not valid")
            message = (
                "The provided continue parameter is too old to display a consistent list result"
            )
            raise ApiStatus(410, "Expired", message)
        version, found = self._pages[token] if token else (self._version, self.select(selection))
        if not limit or len(found) <= limit:
            return version, "", found
        marker = json.dumps({"rv": version, "start": found[limit]["metadata"]["name"]})
        token = base64.b64encode(marker.encode()).decode()
        self._pages[token] = (version, found[limit:])
        return version, token, found[:limit]

    def expire_pages(self) -> None:
        """Let every continue token handed out so far be too old."""
        self._expired_tokens |= set(self._pages)
        self._pages.clear()

    # Watches.

    def compact(self) -> None:
        """Forget the history: nobody can resume a watch from before now."""
        self._version += 1  # so that "now" is later than what anybody has seen
        self._compacted = self._version
        for changes in self._changes.values():
            changes.clear()

    def changes(self, selection: Selection, after: int) -> Iterator[tuple[int, str, Json]]:
        """Yield (version, event type, object) of the changes that the selection sees, in order.

        An object that comes to match is ADDED, one that no longer does is DELETED, as it was.
        Raises ApiStatus 410 when the history does not reach back so far.
        """
        if after < self._compacted:
            message = f"too old resource version: {after} ({self._compacted})"
            raise ApiStatus(410, "Expired", message)
        for version, old, new in list(self._changes[selection.resource]):
            if version <= after:
                continue
            was, now = old is not None and old in selection, new is not None and new in selection
            if now and new is not None:
                yield version, "MODIFIED" if was else "ADDED", new
            elif was and old is not None:
                gone = copy.deepcopy(old)
                gone["metadata"]["resourceVersion"] = str(version)
                yield version, "DELETED", gone


def _key(value: Json) -> Key:
    return (value["metadata"].get("namespace", ""), value["metadata"]["name"])
