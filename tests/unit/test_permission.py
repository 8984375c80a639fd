"""Whether a process may steer is found out without changing anything."""

from pathlib import Path

import pytest

from pyproxy.steer import permission

ALL, NONE = "CapEff:\t000001ffffffffff\n", "Name:\tx\nCapEff:\t0000000000000000\n"


@pytest.mark.parametrize(
    ("status", "platform", "path", "says"),
    [
        (ALL, "linux", True, None),
        (NONE, "linux", True, "CAP_NET_ADMIN: run as root"),
        ("", "linux", True, "CAP_NET_ADMIN: run as root"),
        (ALL, "linux", False, "the command nft: install the package nftables"),
        (ALL, "darwin", True, "steering needs Linux"),
    ],
)
def test_what_is_missing_is_told_with_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    platform: str,
    says: str | None,
    *,
    path: bool,
) -> None:
    file = tmp_path / "status"
    file.write_text(status)
    (tmp_path / "nft").write_text("#!/bin/sh\n")
    (tmp_path / "nft").chmod(0o755)
    monkeypatch.setattr(permission, "_STATUS", file)
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv("PATH", str(tmp_path) if path else "/nowhere")
    found = permission.why_not()
    assert found is None if says is None else says in (found or "")
