"""Our lines in a hosts file: put there, found again, taken out. Bytes in, bytes out.

Every line of ours ends in our mark, the comment `# pyproxy local PID/INSTANCE`: the entries as well
as BEGIN and END around them, which are there for people. What is taken out is the lines that
carry the mark, and nothing else, whatever became of the file meanwhile: a block without END, lines
that somebody wrote in between, another pyproxy's block inside of it. (A line of ours that was cut
short has no mark any more, and stays: nobody can tell whose it is.)

A file may be anything: Latin-1, CRLF, no newline at its end. So the block goes in front of the last
line if that has no newline, else at the end. Then both ways hold byte for byte: taking out undoes
putting in, and no other line ever changes.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from pyproxy.core.local_names import Names
from pyproxy.core.loopback import Placements

# Only the line feed ends a line, as for resolvers: `splitlines` knows others.
_LINES = re.compile(rb"[^\n]*\n|[^\n]+")
# An editor may have changed the line ends of the whole file.
_OURS = re.compile(
    rb"(?:# BEGIN |# END |127\.[0-9.]+ [a-z0-9. -]+ # )"
    rb"pyproxy local (\d{1,10})/([0-9a-z]{1,32})\r?\n?"
)


class Author(NamedTuple):
    """Who wrote a block: a process, and a word that tells it from others of the same number."""

    pid: int
    instance: str

    def __str__(self) -> str:
        return f"pyproxy local {self.pid}/{self.instance}"


def entries_of(placements: Placements, names: Names) -> tuple[str, ...]:
    """Return the lines of a hosts file for what is placed, without our mark.

    The name of a headless Service is at each of its pods, as in the cluster's DNS. It has a line of
    its own there: musl reads no further than 1,000 bytes (`name_from_hosts`).
    """
    by_claimant = names.by_claimant()
    return tuple(
        f"{placements[claimant].address} {' '.join(found)}"
        for claimant in sorted(placements)
        for owner in dict.fromkeys((claimant, claimant.service))
        if (found := by_claimant.get(owner))
    )


def put(content: bytes, author: Author, entries: Iterable[str]) -> bytes:
    """Return a hosts file with this block of an author in place of the one it had, if any."""
    content = take_out(content, {author})
    marked = [f"{entry} # {author}" for entry in entries]
    if not marked:
        return content
    block = "".join(f"{line}\n" for line in (f"# BEGIN {author}", *marked, f"# END {author}"))
    at = content.rfind(b"\n") + 1
    return content[:at] + block.encode("ascii") + content[at:]


def take_out(content: bytes, authors: set[Author]) -> bytes:
    """Return a hosts file without the lines of these authors."""
    return b"".join(line for line in _LINES.findall(content) if _author_of(line) not in authors)


def authors_of(content: bytes) -> set[Author]:
    """Return everybody who has a line in a hosts file."""
    return {author for line in _LINES.findall(content) if (author := _author_of(line))}


def _author_of(line: bytes) -> Author | None:
    match = _OURS.fullmatch(line)
    return Author(int(match[1]), match[2].decode()) if match else None
