"""Every dependency is pinned by version and hash, and under a licence that may be used."""

import pytest

from tests.support.licences import LOCKS, document, is_allowed, licence_of, pins

HASH = f"    --hash=sha256:{'0' * 64}\n"


@pytest.mark.parametrize("lock", sorted(LOCKS.glob("*.lock")), ids=lambda lock: lock.name)
def test_every_requirement_has_one_version_and_hashes(lock: object) -> None:
    assert len(pins((LOCKS / str(lock)).read_text())) > 3


@pytest.mark.parametrize(
    "lock",
    [
        "a>=1 \\\n" + HASH,
        "a==1\n",
        "a==1 \\\nb==2 \\\n" + HASH,
        "a==1 \\\n" + HASH + "b==2 \\\n",
        "a @ https://example.com/a.whl \\\n" + HASH,
        "-e .\n",
    ],
)
def test_what_is_not_pinned_is_found(lock: str) -> None:
    with pytest.raises(ValueError, match=r"not pinned|no hash"):
        pins(lock)


def test_every_licence_may_be_used() -> None:
    used = [p.name for p in pins((LOCKS / "requirements.lock").read_text()) if not p.marker]
    assert {n: licence_of(n) for n in used if not is_allowed(licence_of(n))} == {}


@pytest.mark.parametrize(
    ("expression", "may"),
    [
        ("MIT", True),
        ("Apache-2.0 AND MIT", True),
        ("GPL-2.0-or-later OR Apache-2.0", True),
        ("GPL-2.0-or-later", False),
        ("MIT AND GPL-3.0-only", False),
        ("", False),
    ],
)
def test_one_of_what_is_offered_and_all_of_what_is_inside_must_be_allowed(
    expression: str, may: bool
) -> None:
    assert is_allowed(expression) is may


def test_the_document_is_what_the_packages_say() -> None:
    """`make licences` writes it."""
    assert (LOCKS.parent / "docs" / "licences.md").read_text() == document()
