"""Every rule that the code cites by number is in docs/parity.md."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NUMBER = r"\d{1,2}\.\d{1,2}"
# "PARITY 3.4", "PARITY 11.3, 11.5" and, in brackets, "(10.3)", "(6.3 to 6.5)".
_CITED = re.compile(
    rf"(?:PARITY |\()({_NUMBER}(?:(?:, | to | and ){_NUMBER})*)(?=[).,;: \n]|$)", re.MULTILINE
)


def cited(path: Path) -> set[str]:
    text = path.read_text(encoding="utf-8")
    groups = [m[1] for m in _CITED.finditer(text)]
    return {number for group in groups for number in re.findall(_NUMBER, group)}


def test_every_rule_that_is_cited_is_written_down() -> None:
    document = (ROOT / "docs/parity.md").read_text(encoding="utf-8")
    written = set(re.findall(rf"^- \*\*({_NUMBER})\*\*", document, re.MULTILINE))
    assert len(written) > 80
    missing = {
        f"{path.relative_to(ROOT)}: {number}"
        for package in ("core", "model", "source", "forward", "app", "cli", "steer", "ops", "aio")
        for path in (ROOT / "pyproxy" / package).glob("*.py")
        for number in cited(path) - written - {"0.0"}  # of an IP address
    }
    assert not missing
