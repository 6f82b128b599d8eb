"""Files that are replaced while others look at them."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from stylegan2_msp import files
from stylegan2_msp.errors import UserError
from stylegan2_msp.files import put_in_place, replacing


class InUse:
    """`os.replace` of Windows while another program has the file open for the first so many tries."""

    def __init__(self, tries: float) -> None:
        self.tries, self.replace = tries, os.replace

    def __call__(self, source: str | Path, target: str | Path) -> None:
        self.tries -= 1
        if self.tries >= 0:
            raise PermissionError(errno.EACCES, "Access is denied", str(source), None, str(target))
        self.replace(source, target)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)


def test_a_file_that_a_scanner_looks_at_is_replaced_when_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    """It ended a training whose new snapshot Windows was just looking at."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "replace", InUse(3))
    with replacing(tmp_path / "table.csv") as temporary:
        temporary.write_text("new", encoding="utf-8")
    assert (tmp_path / "table.csv").read_text(encoding="utf-8") == "new"


def test_a_file_that_stays_open_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    """A table in Excel, say; it was said that space should be freed."""
    (tmp_path / "table.csv").write_text("old", encoding="utf-8")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "replace", InUse(99))
    with (
        pytest.raises(UserError, match=r"table\.csv: is open in another program, or write-protected; close it there"),
        replacing(tmp_path / "table.csv") as temporary,
    ):
        temporary.write_text("new", encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert (tmp_path / "table.csv").read_text(encoding="utf-8") == "old"


def test_elsewhere_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "replace", InUse(1))
    monkeypatch.setattr(files.time, "sleep", lambda seconds: pytest.fail("waits"))
    with pytest.raises(PermissionError):
        put_in_place(tmp_path / "a", tmp_path / "b")
