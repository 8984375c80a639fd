"""The licences of what pyproxy is run with, as the installed packages tell: `make licences`.

Run as `python -m tests.support.licences`, it writes docs/licences.md to the standard output.
"""

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

LOCKS = Path(__file__).parents[2] / "deploy"

# SPDX identifiers. All permissive, but MPL-2.0: its terms are for changes of its own files, and we
# change none (certifi is a list of certificates).
ALLOWED = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0", "PSF-2.0",
}  # fmt: skip

# What packages say that have no SPDX expression.
_OTHER_WORDS = {
    "Apache 2.0": "Apache-2.0",
    "MIT License": "MIT",
    "License :: OSI Approved :: MIT License": "MIT",
}
# An exact version, perhaps for some systems only.
_PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)(?:\[[a-z,-]+\])?==([^ ;\\]+) *(?:; *([^\\]+?))? *\\$")
# Alone on a line there is nothing but what belongs to the requirement above, or a remark.
_BELONGS = re.compile(r"^ +--hash=sha256:[0-9a-f]{64}(?: \\)?$|^ *#|^$")

_HEAD = """\
# Licences

What `deploy/requirements.lock` installs beside pyproxy, which is under Apache-2.0 itself. `make
licences` writes this file from what the installed packages say of themselves; a test holds it to
the lock, and each licence to a list: permissive ones, and MPL-2.0, whose terms are for changes of
its own files. pyroute2 is offered under GPL-2.0-or-later or Apache-2.0, and used under the
latter. The image has `nft` and its libraries beside that (GPL-2.0): programs of their own, which
are run, not linked.

| package | version | licence |
| --- | --- | --- |
"""


class Pin(NamedTuple):
    """A line of a lock. marker: the systems that it is for, "" for all."""

    name: str
    version: str
    marker: str


def pins(lock: str) -> list[Pin]:
    """Read the requirements of a lock. Raises ValueError at a line that pins nothing exactly."""
    found: list[Pin] = []
    has_hash = True
    for line in lock.splitlines():
        if match := _PIN.match(line):
            if not has_hash:
                raise ValueError(f"{found[-1].name} has no hash")
            found.append(Pin(match[1], match[2], match[3] or ""))
            has_hash = False
        elif _BELONGS.match(line):
            has_hash |= "--hash" in line
        else:
            raise ValueError(f"not pinned: {line}")
    if not has_hash:
        raise ValueError(f"{found[-1].name} has no hash")
    return found


def licence_of(name: str) -> str:
    """The SPDX expression of an installed package, or what it says instead."""
    found = metadata.metadata(name)
    classifiers = [c for c in found.get_all("Classifier") or [] if c.startswith("License ::")]
    said = found.get_all("License-Expression") or found.get_all("License") or classifiers
    return " AND ".join(_OTHER_WORDS.get(word, word) for word in said)


def is_allowed(expression: str) -> bool:
    """Whether a licence may be used: all of what is joined by AND, one of what is joined by OR."""
    choices = [choice.split(" AND ") for choice in expression.split(" OR ")]
    return any(all(part in ALLOWED for part in choice) for choice in choices)


def document() -> str:
    """The text of docs/licences.md."""
    return _HEAD + "\n".join(_rows()) + "\n"


def _rows() -> Iterator[str]:
    for pin in pins((LOCKS / "requirements.lock").read_text()):
        if "win32" not in pin.marker:  # not installed where pyproxy runs
            yield f"| {pin.name} | {pin.version} | {licence_of(pin.name)} |"


if __name__ == "__main__":
    print(document(), end="")  # noqa: T201
