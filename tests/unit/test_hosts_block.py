"""Our block in a hosts file: no other byte changes, ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.core.hosts_block import Author, authors_of, entries_of, put, take_out
from pyproxy.core.local_names import Scope, names_of
from pyproxy.core.local_service import Claimant
from pyproxy.core.loopback import Placement

ME = Author(1234, "5f3a")
OTHER = Author(99, "0")
ENTRIES = ("127.5.6.7 web web.shop", "127.5.6.8 db db.shop")
BLOCK = b"""\
# BEGIN pyproxy local 1234/5f3a
127.5.6.7 web web.shop # pyproxy local 1234/5f3a
127.5.6.8 db db.shop # pyproxy local 1234/5f3a
# END pyproxy local 1234/5f3a
"""

PIECES = st.sampled_from(
    [b"127.0.0.1 localhost", b"\n", b"\r\n", b"\r", b"\x0b", b"\xe9t\xe9", b"\0", b"#", b"\xff\xfe"]
    + BLOCK.splitlines(keepends=True)
    + [line.replace(b"1234/5f3a", b"99/0") for line in BLOCK.splitlines()]
)
FILES = st.binary(max_size=40) | st.lists(PIECES, max_size=12).map(b"".join)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", BLOCK),
        (b"127.0.0.1 localhost\n", b"127.0.0.1 localhost\n" + BLOCK),
        (b"127.0.0.1 localhost\r\n", b"127.0.0.1 localhost\r\n" + BLOCK),
        (b"127.0.0.1 localhost", BLOCK + b"127.0.0.1 localhost"),
        (b"127.0.0.1 localhost\n# \xe9t\xe9", b"127.0.0.1 localhost\n" + BLOCK + b"# \xe9t\xe9"),
    ],
)
def test_the_block_stands_behind_the_last_line_feed(before: bytes, after: bytes) -> None:
    assert put(before, ME, ENTRIES) == after
    assert take_out(after, {ME}) == before


@given(FILES)
def test_putting_in_and_taking_out_gives_back_the_file_byte_for_byte(before: bytes) -> None:
    clean = take_out(before, {ME})
    assert take_out(put(before, ME, ENTRIES), {ME}) == clean
    if ME not in authors_of(before):
        assert clean == before


@given(FILES, st.permutations([ME, OTHER, ME, OTHER]))
def test_two_authors_never_touch_each_other(before: bytes, order: list[Author]) -> None:
    content = clean = take_out(before, {ME, OTHER})
    inside: set[Author] = set()
    for author in order:
        if author in inside:
            content = take_out(content, {author})
            inside.remove(author)
        else:
            content = put(content, author, ENTRIES)
            inside.add(author)
        assert authors_of(content) == inside
    assert content == clean


def test_a_new_block_replaces_the_old_one() -> None:
    before = put(b"a\n", ME, ("127.1.1.1 old",)) + b"b\n"
    assert put(before, ME, ENTRIES) == b"a\nb\n" + BLOCK


def test_a_block_of_nothing_is_no_block() -> None:
    assert put(b"a\n" + BLOCK, ME, ()) == b"a\n"


def test_of_a_half_written_block_only_lines_with_our_mark_go() -> None:
    begin, first, second, _ = BLOCK.splitlines(keepends=True)
    half = b"a\n" + begin + first + b"10.0.0.1 mine\n" + second[:20]
    assert take_out(half, {ME}) == b"a\n10.0.0.1 mine\n" + second[:20]


def test_a_block_is_known_again_when_an_editor_changed_the_line_ends() -> None:
    assert take_out(BLOCK.replace(b"\n", b"\r\n"), {ME}) == b""


@pytest.mark.parametrize(
    "line",
    [
        b"127.0.0.1 localhost # pyproxy local is nice\n",
        b"10.0.0.1 web # pyproxy local 1234/5f3a\n",
        b"# BEGIN pyproxy local 1234/5f3a and more\n",
        b" # BEGIN pyproxy local 1234/5f3a\n",
        b"# BEGIN pyproxy local 1234/5f3a\r\r\n",
    ],
)
def test_a_line_that_we_could_not_have_written_is_not_ours(line: bytes) -> None:
    assert authors_of(line) == set()


def test_entries_have_the_names_of_each_claimant_the_shortest_first() -> None:
    web, db = Claimant("", "shop", "web"), Claimant("", "shop", "db")
    pods = [db._replace(pod="db-0"), db._replace(pod="db-1")]
    placements = {
        claimant: Placement(claimant, f"127.5.6.{number}", ())
        for number, claimant in enumerate([web, *pods], 1)
    }
    names = names_of([web, db, *pods], Scope())
    assert entries_of(placements, names) == (
        "127.5.6.2 db-0.db db-0.db.shop db-0.db.shop.svc db-0.db.shop.svc.cluster.local",
        "127.5.6.2 db db.shop db.shop.svc db.shop.svc.cluster.local",
        "127.5.6.3 db-1.db db-1.db.shop db-1.db.shop.svc db-1.db.shop.svc.cluster.local",
        "127.5.6.3 db db.shop db.shop.svc db.shop.svc.cluster.local",
        "127.5.6.1 web web.shop web.shop.svc web.shop.svc.cluster.local",
    )
    # What we write we know again.
    content = put(b"", ME, entries_of(placements, names))
    assert take_out(content, {ME}) == b""


def test_who_has_no_name_has_no_entry() -> None:
    bad = Claimant("", "shop", "no_name")
    placements = {bad: Placement(bad, "127.5.6.1", ())}
    assert entries_of(placements, names_of([bad], Scope())) == ()
