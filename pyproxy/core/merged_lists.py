"""One list of a resource out of several, where each namespace is listed and watched by itself.

Whoever may read a few namespaces only cannot list the whole cluster. What is published must be the
whole list all the same: a list says that everything else is gone.
"""

from collections.abc import Collection

from pyproxy.model.events import (
    Applied,
    Event,
    Listed,
    Object,
    ObjectKey,
    Resource,
    key_of,
)


class MergedLists:
    """The lists of one resource, by the part that each is of (such as a namespace)."""

    def __init__(self, resource: Resource, parts: Collection[str]) -> None:
        self._resource: Resource = resource
        self._missing = set(parts)
        self._objects: dict[str, dict[ObjectKey, Object]] = {part: {} for part in parts}

    def merge(self, part: str, event: Event) -> Event | None:
        """Return the event as one of the whole; None while parts were never listed."""
        objects = self._objects[part]
        if isinstance(event, Listed):
            self._missing.discard(part)
            self._objects[part] = {key_of(value): value for value in event.values}
            return self._whole()
        if isinstance(event, Applied):
            objects[key_of(event.value)] = event.value
        else:
            objects.pop(event.key, None)
        return None if self._missing else event

    def _whole(self) -> Listed | None:
        if self._missing:
            return None
        values = [value for objects in self._objects.values() for value in objects.values()]
        return Listed(self._resource, tuple(values))
