"""What a run tells, also where nobody listens or the disk is full."""

import errno
import json
import os
import sys
from types import SimpleNamespace

import pytest

from stylegan2_msp.errors import UserError
from stylegan2_msp.training.logs import RunLog


def test_a_console_that_is_gone_ends_no_run(tmp_path, monkeypatch):
    """`train ... | head`, or a terminal that was closed under nohup."""
    read, write = os.pipe()
    with os.fdopen(write, "w") as console, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", console)
        log = RunLog(tmp_path, 1.0)
        log.say("heard")
        os.close(read)
        log.say("not heard")
        log.say("nor this")
    assert (tmp_path / "log.txt").read_text().splitlines() == ["heard", "not heard", "nor this"]


def test_any_name_can_be_logged(tmp_path, monkeypatch, capsys):
    """A file's name need not be UTF-8."""
    log = RunLog(tmp_path, 1.0)
    monkeypatch.setattr(sys, "stdout", open(os.devnull, "w", errors="surrogateescape"))  # noqa: SIM115
    log.say("run \udcff")
    assert (tmp_path / "log.txt").read_text() == "run \\udcff\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device")
@pytest.mark.parametrize("name", ["log.txt", "stats.jsonl"])
def test_a_full_disk_is_one_line(tmp_path, name):
    (tmp_path / name).symlink_to("/dev/full")
    log = RunLog(tmp_path, 1.0)
    with pytest.raises(UserError, match=rf"{name}: cannot be written \(No space left on device\); .*--resume"):
        log.say("more") if name == "log.txt" else log.record({"kimg": 1.0})


def test_tensorboard_ends_no_run(tmp_path):
    """It writes from a thread, which passes on a full disk to whatever is called next."""

    class Full:
        def add_scalar(self, *_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        close = add_scalar

    log = RunLog(tmp_path, 1.0)
    log.tensorboard = Full()
    with pytest.raises(UserError, match="as was said"), log:
        raise UserError("as was said")
    for _ in range(2):
        log.record({"kimg": 1.0, "tick": 1})
    assert len((tmp_path / "stats.jsonl").read_text().splitlines()) == 2


def test_a_folder_whose_name_is_not_utf8_is_taken(tmp_path, monkeypatch):
    """Tensorboard, where it is installed, encodes the folder's name."""
    stand_in = SimpleNamespace(SummaryWriter=lambda folder: folder.encode())
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    folder = tmp_path / os.fsdecode(b"lat\xe4n")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("a file system of UTF-8 names")
    with RunLog(folder, 1.0) as log:
        log.record({"kimg": 1.0})
    assert (folder / "stats.jsonl").is_file()


def test_a_tensorboard_that_does_not_work_ends_no_run(tmp_path, monkeypatch, capsys):
    """Beside an older protobuf its import raises an error of protobuf's own, which used to end the run at its start."""

    class VersionError(Exception):
        pass

    def imported(folder):
        raise VersionError("gencode 6.31.1\n runtime 5.29.0")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=imported))
    with RunLog(tmp_path, 1.0) as log:
        log.record({"kimg": 1.0})
    assert (tmp_path / "stats.jsonl").is_file()
    said = "does not work here (VersionError: gencode 6.31.1 runtime 5.29.0); stats.jsonl has the same figures."
    assert said in capsys.readouterr().out


def test_figures_are_json_whatever_they_are(tmp_path):
    RunLog(tmp_path, 1.0).record({"kimg": 1.0, "loss/G": float("inf"), "loss/D": float("nan")})

    def no_constant(name):
        raise AssertionError(name)

    row = json.loads((tmp_path / "stats.jsonl").read_text(), parse_constant=no_constant)
    assert row == {"kimg": 1.0, "loss/G": None, "loss/D": None}


def test_statistics_are_cut_whole_or_not_at_all(tmp_path, monkeypatch):
    log = RunLog(tmp_path, 9.0)
    for kimg in (1.0, 2.0, 3.0):
        log.record({"kimg": kimg})
    before = (tmp_path / "stats.jsonl").read_text()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device"):
            log.forget_after(2.0)
    assert (tmp_path / "stats.jsonl").read_text() == before
    log.forget_after(2.0)
    assert (tmp_path / "stats.jsonl").read_text() == before[: before.index('{"kimg": 3.0')]
