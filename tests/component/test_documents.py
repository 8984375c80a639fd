"""What README and docs name is there: commands with their flags, make targets, files."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.cli import parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
# What cannot be run without one says so in its block.
NEEDS = re.compile(r"# .*\bneeds (?:a cluster|Docker|root)")


def blocks(page: Path) -> list[str]:
    """The blocks of shell commands."""
    return re.findall(r"^```(?:sh|console)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """The arguments of each command line of a program, in blocks and between backticks."""
    text = page.read_text()
    lines = [line.removeprefix("$ ") for block in blocks(page) for line in block.splitlines()]
    lines += re.findall(rf"`((?:\.venv/bin/)?{program} [^`]*)`", text.replace("\n", " "))
    for line in lines:
        command = line.replace("\\\n", "").split("  #")[0].split(" | ")[0].strip()
        if match := re.match(rf"(?:sudo )?(?:\.venv/bin/)?{program}(?: |$)(.*)", command):
            yield shlex.split(match[1])


def is_a_form(arguments: list[str]) -> bool:
    """Whether it stands for many commands."""
    return any(re.search(r"\.\.\.|\||^\[|^[A-Z][A-Z-]*$", word) for word in arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_that_are_shown_are_accepted(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in commands(page, "pyproxy"):
        if is_a_form(arguments):
            assert arguments[0] in known(), arguments
            continue
        try:
            parser().parse_args(arguments)
        except SystemExit as ended:
            said = capsys.readouterr()
            if (
                ended.code and "required" not in said.err
            ):  # a command may be named without its target
                pytest.fail(f"pyproxy {shlex.join(arguments)}: {said.err}")


def test_the_commands_of_a_page_are_found() -> None:
    assert len(list(commands(ROOT / "README.md", "pyproxy"))) > 15
    assert len(list(commands(ROOT / "README.md", "make"))) > 3


def known() -> set[str]:
    (choices,) = [a.choices for a in parser()._actions if isinstance(a.choices, dict)]
    return set(choices)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_make_targets_that_are_shown_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for arguments in commands(page, "make"):
        names = {word for word in arguments if not re.search(r"[=A-Z]", word)}
        assert names <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:deploy|docs|pyproxy|tests)/[\w./-]+)`", page.read_text())
    for path in named:
        found = ROOT / path
        assert found.exists() or found.with_suffix(".py").exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_that_need_a_cluster_say_so(page: Path) -> None:
    for block in blocks(page):
        if re.search(r"^(?:\$ )?(?:kubectl|kubeadm|kind|docker|ssh) ", block, re.MULTILINE):
            assert NEEDS.search(block), block
