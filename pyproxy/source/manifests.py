"""Services and EndpointSlices from YAML files, read again when they change.

Owns what each file held when it was last good: a file that breaks keeps its objects until it is
mended, and one that goes from a directory takes its objects with it. A path that was named and is
gone keeps its objects too: more likely somebody is just putting it in place anew.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from pyproxy.core.manifest import Manifest, parse_manifest
from pyproxy.errors import ConfigError
from pyproxy.metrics import Metrics
from pyproxy.model.events import RESOURCES, Event, Listed, Object, ObjectKey, Resource, key_of

log = logging.getLogger(__name__)

_SUFFIXES = {".yaml", ".yml", ".json"}

# Looking is a stat of each file. inotify would see a change sooner, but not on every file system,
# nor a ConfigMap's swap of a symbolic link two levels up.
# A change counts when two looks in a row see the same: of a file that is just being written, only a
# half may be there, and the objects of the other half would be gone for a moment.
LOOK_INTERVAL_S = 0.25

_Stamp = tuple[int, ...]


def files_of(paths: Sequence[str]) -> list[Path]:
    """The files that the paths stand for: a directory for the YAML and JSON files right in it.

    Raises ConfigError for a path that does not exist or cannot be looked into.
    """
    files: list[Path] = []
    for text in paths:
        path = Path(text)
        try:
            if path.is_dir():
                files += sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES and p.is_file())
            else:
                path.stat()
                files.append(path)
        except OSError as fault:
            raise ConfigError(f"manifests {text}: {fault.strerror}") from fault
    return list(dict.fromkeys(files))


def read(path: Path) -> Manifest:
    """Read one file. Raises ConfigError that names the file, and the line where it can."""
    try:
        return parse_manifest(path.read_text(encoding="utf-8"), str(path))
    except OSError as fault:
        raise ConfigError(f"{path}: {fault.strerror}") from fault
    except UnicodeDecodeError as fault:
        raise ConfigError(f"{path}: not UTF-8: {fault.reason} at byte {fault.start}") from fault


def load(paths: Sequence[str]) -> tuple[list[Listed], list[str]]:
    """Read all files once; return one list for each resource, and the faults of single objects.

    Raises ConfigError for a file that cannot be read.
    """
    manifests = {path: read(path) for path in files_of(paths)}
    faults = [fault for manifest in manifests.values() for fault in manifest.faults]
    lists, doubles = _merge(manifests)
    return lists, faults + doubles


def _merge(manifests: dict[Path, Manifest]) -> tuple[list[Listed], list[str]]:
    found: dict[Resource, dict[ObjectKey, tuple[Path, Object]]] = {r: {} for r in RESOURCES}
    doubles = []
    for path, manifest in manifests.items():
        for resource, value in manifest.objects:
            key = key_of(value)
            if key in found[resource]:
                first, name = found[resource][key][0], "/".join(filter(None, key))
                doubles.append(f"{path}: {resource} {name} is in {first} too; this one counts")
            found[resource][key] = (path, value)
    return [Listed(r, tuple(value for _, value in found[r].values())) for r in RESOURCES], doubles


class ManifestSource:
    """Publishes what the files hold, now and whenever they change."""

    def __init__(
        self,
        paths: Sequence[str],
        publish: Callable[[Event], None],
        metrics: Metrics,
        *,
        look_interval_s: float = LOOK_INTERVAL_S,
    ) -> None:
        self._paths = paths
        self._publish = publish
        self._metrics = metrics
        self._look_interval_s = look_interval_s
        self._files: dict[str, list[Path]] = {}
        self._seen: dict[Path, _Stamp] = {}  # at the last look
        self._stamps: dict[Path, _Stamp] = {}  # when it was last read
        self._manifests: dict[Path, Manifest] = {}
        self._faults: dict[Path, tuple[str, ...]] = {}
        self._reported: set[str] = set()

    async def run(self) -> None:
        """Publish, and follow changes until cancelled.

        Raises ConfigError when a file cannot be read the first time: nothing good is known of it.
        """
        await self._look(is_first=True)
        for resource in RESOURCES:
            self._metrics.watch_states[resource] = "watching"
        while True:
            await asyncio.sleep(self._look_interval_s)
            await self._look(is_first=False)

    async def _look(self, *, is_first: bool) -> None:
        for text in self._paths:
            try:
                self._files[text] = files_of([text])
            except ConfigError:
                if is_first:
                    raise
                continue  # the files it stood for are read below, and tell what is wrong
        seen = {path: _stamp(path) for files in self._files.values() for path in files}
        stamps = seen if is_first else self._settled(seen)
        self._seen = seen
        if stamps == self._stamps and not is_first:
            return
        changed = [path for path, stamp in stamps.items() if stamp != self._stamps.get(path)]
        self._stamps = stamps
        # Parsing a large file takes seconds, and traffic must not wait for it.
        fresh, faults = await asyncio.to_thread(_read_all, changed, is_first=is_first)
        manifests, all_faults = self._manifests | fresh, self._faults | faults
        self._manifests = {path: manifests[path] for path in stamps if path in manifests}
        self._faults = {path: all_faults[path] for path in stamps if path in all_faults}
        lists, doubles = _merge(self._manifests)
        self._report([*itertools.chain.from_iterable(self._faults.values()), *doubles])
        for event in lists:
            self._publish(event)

    def _settled(self, seen: dict[Path, _Stamp]) -> dict[Path, _Stamp]:
        """The stamps that were the same at the last look; for other files, those last read."""
        same = {path: stamp for path, stamp in seen.items() if stamp == self._seen.get(path)}
        known = self._stamps | same
        return {path: known[path] for path in seen if path in known}

    def _report(self, faults: list[str]) -> None:
        """Log each fault once, for as long as it lasts."""
        for fault in faults:
            if fault not in self._reported:
                log.warning("%s", fault)
        self._reported = set(faults)


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return ()  # gone, or out of reach: reading it will say so
    # The time of the last change of its metadata tells that it became readable.
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


def _read_all(
    paths: list[Path], *, is_first: bool
) -> tuple[dict[Path, Manifest], dict[Path, tuple[str, ...]]]:
    fresh: dict[Path, Manifest] = {}
    faults: dict[Path, tuple[str, ...]] = {}
    for path in paths:
        try:
            fresh[path] = read(path)
            faults[path] = fresh[path].faults
        except ConfigError as fault:
            if is_first:
                raise
            faults[path] = (f"{fault}; the file's last good content stays in use",)
    return fresh, faults
