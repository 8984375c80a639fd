"""docs/configuration.md says what the code reads."""

from pathlib import Path

from pyproxy.config.reference import reference

DOCUMENT = Path(__file__).parents[2] / "docs/configuration.md"


def test_the_document_is_what_the_code_says() -> None:
    written = DOCUMENT.read_text(encoding="utf-8")
    assert written == reference(), "run: pyproxy config reference > docs/configuration.md"


def test_every_field_has_a_meaning() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| ")]
    assert len(rows) > 70
    assert not [row for row in rows if row.endswith("|  |")]
