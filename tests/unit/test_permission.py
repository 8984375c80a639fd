"""Whether a process may steer is found out without changing anything."""

from pathlib import Path

import pytest

from pyproxy.steer import permission

ALL, NONE = "CapEff:\t000001ffffffffff\n", "Name:\tx\nCapEff:\t0000000000000000\n"


@pytest.mark.parametrize(
    ("status", "mark", "platform", "path", "says"),
    [
        (ALL, "0\n", "linux", True, None),
        (NONE, "0\n", "linux", True, "CAP_NET_ADMIN: run as root"),
        ("", "0\n", "linux", True, "CAP_NET_ADMIN: run as root"),
        (ALL, "0\n", "linux", False, "the command nft: install the package nftables"),
        (ALL, "1\n", "linux", True, "net.ipv4.conf.all.src_valid_mark=0"),
        (ALL, "0\n", "darwin", True, "steering needs Linux"),
    ],
)
def test_what_is_missing_is_told_with_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    mark: str,
    platform: str,
    says: str | None,
    *,
    path: bool,
) -> None:
    file = tmp_path / "status"
    file.write_text(status)
    (tmp_path / "nft").write_text("#!/bin/sh\n")
    (tmp_path / "nft").chmod(0o755)
    source_mark = tmp_path / "src_valid_mark"
    source_mark.write_text(mark)
    monkeypatch.setattr(permission, "_STATUS", file)
    monkeypatch.setattr(permission, "_SOURCE_MARK", source_mark)
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv("PATH", str(tmp_path) if path else "/nowhere")
    found = permission.why_not()
    assert found is None if says is None else says in (found or "")
