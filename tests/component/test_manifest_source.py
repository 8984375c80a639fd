"""Files are followed: what they hold is published, now and whenever they change."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from pyproxy.errors import ConfigError
from pyproxy.metrics import Metrics
from pyproxy.model.events import RESOURCES, Event, Listed
from pyproxy.source.manifests import LOOK_INTERVAL_S, ManifestSource, files_of, load
from tests.support.builders import Json, make_node, make_service, make_slice

TIMEOUT_S = 20.0
LOGGER = logging.getLogger("pyproxy.source.manifests")


def write(path: Path, *objects: Json, text: str | None = None) -> None:
    """Put a file in place at once, as an editor does."""
    fresh = path.with_name(f"{path.name}.tmp")
    fresh.write_text(yaml.safe_dump_all(objects) if text is None else text, encoding="utf-8")
    fresh.replace(path)


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.queue: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.queue.put_nowait(record.getMessage())


class Followed:
    """A source at work: what it publishes and what it logs, each to be waited for."""

    def __init__(self, *paths: Path) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self.lines = _Lines()
        self.metrics = Metrics()
        self.source = ManifestSource(
            [str(path) for path in paths],
            self._events.put_nowait,
            self.metrics,
            look_interval_s=0.01,
        )

    async def published(self) -> dict[str, list[str]]:
        """Wait for the lists of all resources; return the names in each that is not empty."""
        found: dict[str, list[str]] = {}
        for resource in RESOURCES:
            async with asyncio.timeout(TIMEOUT_S):
                event = await self._events.get()
            assert isinstance(event, Listed)
            assert event.resource == resource
            if event.values:
                found[resource] = sorted(value.name for value in event.values)
        return found

    async def logged(self) -> str:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.lines.queue.get()

    def rest(self) -> tuple[int, int]:
        """How many events and lines nobody has waited for."""
        return self._events.qsize(), self.lines.queue.qsize()


@contextlib.asynccontextmanager
async def following(*paths: Path) -> AsyncIterator[Followed]:
    followed = Followed(*paths)
    LOGGER.addHandler(followed.lines)
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(followed.source.run())
            yield followed
            task.cancel()
    finally:
        LOGGER.removeHandler(followed.lines)


async def test_what_a_file_holds_is_published_at_once_and_again_when_it_changes(
    tmp_path: Path,
) -> None:
    path = tmp_path / "web.yaml"
    write(path, make_service(), make_slice("10.180.0.1", name="s"), make_node())
    async with following(path) as source:
        assert await source.published() == {
            "services": ["web"],
            "endpointslices": ["s"],
            "nodes": ["node-1"],
        }
        assert set(source.metrics.watch_states) == set(RESOURCES)
        write(path, make_service(), make_service("other"))
        assert await source.published() == {"services": ["other", "web"]}
        write(path, text="")
        assert await source.published() == {}
        assert source.rest() == (0, 0)


async def test_a_look_that_sees_no_change_publishes_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", make_service("a"))
    events: list[Event] = []
    source = ManifestSource([str(tmp_path)], events.append, Metrics())
    await source._look(is_first=True)
    assert len(events) == len(RESOURCES)
    await source._look(is_first=False)
    assert len(events) == len(RESOURCES)


async def test_a_file_that_is_just_being_written_is_not_read_half(tmp_path: Path) -> None:
    path, fresh = tmp_path / "a.yaml", tmp_path / "b.yaml"
    write(path, make_service("a"))
    rounds: list[list[str]] = []

    def publish(event: Event) -> None:
        assert isinstance(event, Listed)
        if event.resource == "services":
            rounds.append([value.name for value in event.values])

    source = ManifestSource([str(tmp_path)], publish, Metrics())
    await source._look(is_first=True)
    for text in ("", "---\n"):
        write(path, text=text)
        write(fresh, text=text)
        await source._look(is_first=False)
    write(path, make_service("b"))
    write(fresh, make_service("c"))
    await source._look(is_first=False)
    assert rounds == [["a"]]
    await source._look(is_first=False)
    assert rounds == [["a"], ["b", "c"]]


def test_a_change_is_seen_within_a_second() -> None:
    assert 2 * LOOK_INTERVAL_S < 1  # two looks have to agree


async def test_a_directory_is_its_yaml_and_json_files_as_they_come_and_go(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", make_service("a"))
    write(tmp_path / "notes.txt", text="not: [read")
    (tmp_path / "inner.yaml").mkdir()
    async with following(tmp_path) as source:
        assert await source.published() == {"services": ["a"]}
        write(tmp_path / "b.yml", make_service("b"))
        assert await source.published() == {"services": ["a", "b"]}
        write(tmp_path / "c.json", make_service("c"))
        assert await source.published() == {"services": ["a", "b", "c"]}
        (tmp_path / "a.yaml").unlink()
        assert await source.published() == {"services": ["b", "c"]}
        assert source.rest() == (0, 0)


async def test_a_broken_file_keeps_its_last_good_content_and_is_logged_once(tmp_path: Path) -> None:
    path, other = tmp_path / "a.yaml", tmp_path / "b.yaml"
    write(path, make_service("a"))
    write(other, make_service("b"))
    async with following(tmp_path) as source:
        await source.published()
        write(path, text="kind: Service\nmetadata:\n  name: [a\nspec: {}\n")
        assert await source.published() == {"services": ["a", "b"]}
        line = await source.logged()
        assert line.startswith(f"{path}:4: not YAML: ")
        assert line.endswith("; the file's last good content stays in use")
        write(other, make_service("c"))  # another file changes: the fault is not told again
        assert await source.published() == {"services": ["a", "c"]}
        assert source.rest() == (0, 0)
        write(path, make_service("d"))
        assert await source.published() == {"services": ["c", "d"]}
        write(path, text="a: [")
        await source.published()
        assert "not YAML" in await source.logged()


async def test_a_file_that_comes_broken_is_logged_and_read_when_it_is_mended(
    tmp_path: Path,
) -> None:
    write(tmp_path / "a.yaml", make_service("a"))
    async with following(tmp_path) as source:
        await source.published()
        write(tmp_path / "b.yaml", text="a: [")
        assert await source.published() == {"services": ["a"]}
        assert "b.yaml:2: not YAML" in await source.logged()
        write(tmp_path / "b.yaml", make_service("b"))
        assert await source.published() == {"services": ["a", "b"]}


async def test_a_bad_object_costs_itself_only_and_is_logged_once_with_its_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.yaml"
    write(path, make_service("bad", ports=[{"port": "http"}]), make_service("good"))
    async with following(path) as source:
        assert await source.published() == {"services": ["good"]}
        line = await source.logged()
        assert line.startswith(f"{path}:1: services: object default/bad cannot be read")
        write(path, make_service("bad", ports=[{"port": "http"}]), make_service("better"))
        assert await source.published() == {"services": ["better"]}
        assert source.rest() == (0, 0)


async def test_an_object_in_two_files_counts_as_the_later_one_says(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    write(first, make_service("web", cluster_ip="172.30.0.1"))
    write(second, make_service("web", cluster_ip="172.30.0.2"))
    async with following(second, first) as source:
        assert await source.published() == {"services": ["web"]}
        line = await source.logged()
        assert line == f"{first}: services default/web is in {second} too; this one counts"
        write(first, make_service("x"))
        assert await source.published() == {"services": ["web", "x"]}


async def test_a_named_file_that_goes_keeps_its_objects_and_the_others_are_followed(
    tmp_path: Path,
) -> None:
    path, other = tmp_path / "a.yaml", tmp_path / "b.yaml"
    write(path, make_service("a"))
    write(other, make_service("b"))
    async with following(path, other) as source:
        await source.published()
        path.unlink()
        assert await source.published() == {"services": ["a", "b"]}
        assert "No such file or directory" in await source.logged()
        write(other, make_service("c"))
        assert await source.published() == {"services": ["a", "c"]}
        write(path, make_service("d"))
        assert await source.published() == {"services": ["c", "d"]}
        assert source.rest() == (0, 0)


async def test_a_directory_that_goes_keeps_its_objects(tmp_path: Path) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    write(directory / "a.yaml", make_service("a"))
    async with following(directory) as source:
        await source.published()
        moved = directory.rename(tmp_path / "moved")
        assert await source.published() == {"services": ["a"]}
        assert "No such file or directory" in await source.logged()
        write(moved / "a.yaml", make_service("b"))
        moved.rename(directory)
        assert await source.published() == {"services": ["b"]}


async def test_what_cannot_be_read_the_first_time_ends_the_start(tmp_path: Path) -> None:
    missing, broken = tmp_path / "missing.yaml", tmp_path / "broken.yaml"
    write(broken, text="a: [")
    for path, fault in (
        (missing, "manifests .*missing.yaml: No such file or directory"),
        (broken, "broken.yaml:2: not YAML"),
    ):
        source = ManifestSource([str(path)], lambda event: None, Metrics())
        with pytest.raises(ConfigError, match=fault):
            await source.run()


def test_files_are_named_once_and_in_order(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "c.txt"):
        write(tmp_path / name)
    found = files_of([str(tmp_path / "c.txt"), str(tmp_path), str(tmp_path / "b.yaml")])
    assert [path.name for path in found] == ["c.txt", "a.yml", "b.yaml"]


def test_a_file_that_is_not_utf_8_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"kind: \xff")
    with pytest.raises(ConfigError, match=r"a\.yaml: not UTF-8: .* at byte 6"):
        load([str(path)])


def test_loading_once_tells_faults_and_doubles(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", make_service())
    write(tmp_path / "b.yaml", make_service(), {"kind": "Node", "apiVersion": "x/v1"})
    lists, faults = load([str(tmp_path)])
    assert [len(event.values) for event in lists] == [1, 0, 0, 0]
    assert len(faults) == 2
    assert "apiVersion 'x/v1' is not that of kind Node" in faults[0]
    assert "services default/web is in" in faults[1]
