"""Patches: only lines of ours, all or nothing, idempotent, reversible to the byte. No checkout is needed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from stylegan2_msp.cli.patch import patch as patch_command
from stylegan2_msp.errors import UserError
from stylegan2_msp.upstream.patching import COMMIT, MERGE, Patch, blob_id, our_patches, patch_checkout

PATCHES = our_patches()
FILES = {name: blobs for patch in PATCHES for name, blobs in patch.blobs.items()}
LINES = 600  # longer than every file of the checkout


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A tree with the checkout's file names and numbered lines in them."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(f"{name} {i}\n" for i in range(1, LINES + 1)))
    return tmp_path


def contents(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in FILES}


def faked(root: Path) -> Callable[[Path], str]:
    """Blob ids as the patches expect them: of an untouched file the first, of one with all its insertions the other."""
    before = contents(root)
    added = {name: insertions(patch, name) for patch in PATCHES for name in patch.blobs}

    def identify(path: Path) -> str:
        name = path.relative_to(root).as_posix()
        lines, old = path.read_bytes(), before[name]
        if lines == old:
            return FILES[name][0]
        kept = lines.decode().splitlines()
        for at, text in added[name]:
            if kept[at - 1 : at] != [text]:
                return blob_id(path)
        ours = {at - 1 for at, _ in added[name]}
        rest = [line for i, line in enumerate(kept) if i not in ours]
        return FILES[name][1] if rest == old.decode().splitlines() else blob_id(path)

    return identify


def insertions(patch: Patch, name: str) -> list[tuple[int, str]]:
    """(line number in the patched file, line), read from the patch without git."""
    body = patch.path.read_text().split(f"+++ b/{name}\n", 1)[1].split("diff --git", 1)[0]
    found, at = [], 0
    for line in body.splitlines():
        hunk = re.fullmatch(r"@@ -\d+,0 \+(\d+)(?:,\d+)? @@", line)
        if hunk:
            at = int(hunk[1])
        else:
            found.append((at, line[1:]))
            at += 1
    return found


def test_the_patches_hold_no_line_of_the_checkout() -> None:
    for patch in PATCHES:
        head, _, body = patch.path.read_text().partition("diff --git")
        assert head.startswith("Purpose: ")
        assert "\nReason: " in head
        for name, (before, _) in patch.blobs.items():
            assert f"  {before} {name}\n" in head
        for line in ("diff --git" + body).splitlines():
            if line.startswith("@@"):  # zero context, nothing removed, no text of the file behind the numbers
                assert re.fullmatch(r"@@ -\d+,0 \+\d+(,\d+)? @@", line)
            else:
                assert re.match(r"diff --git |index |--- a/|\+\+\+ b/|\+(?!\+)", line), line
    assert COMMIT in PATCHES[0].path.read_text()


def test_no_file_is_in_two_patches() -> None:
    assert len(FILES) == sum(len(patch.blobs) for patch in PATCHES)


@pytest.mark.parametrize("repository", ["none", "own", "around"])
def test_applies_once_and_comes_back_to_the_byte(stand_in: Path, repository: str) -> None:
    if repository != "none":
        where = stand_in if repository == "own" else stand_in.parent
        subprocess.run(["git", "init", "-q", str(where)], check=True)
    before, identify = contents(stand_in), faked(stand_in)
    patch_checkout(stand_in, PATCHES, check=True, identify=identify)
    assert contents(stand_in) == before
    assert all(": applied (" in line for line in patch_checkout(stand_in, PATCHES, identify=identify))
    after = contents(stand_in)
    for patch in PATCHES:
        for name in patch.blobs:
            lines = after[name].decode().splitlines()
            for at, text in insertions(patch, name):
                assert lines[at - 1] == text
            assert len(lines) == LINES + len(insertions(patch, name))
    assert all(": already applied (" in line for line in patch_checkout(stand_in, PATCHES, identify=identify))
    assert contents(stand_in) == after
    assert all(": taken back (" in line for line in patch_checkout(stand_in, PATCHES, True, identify=identify))
    assert contents(stand_in) == before
    assert all(": not applied (" in line for line in patch_checkout(stand_in, PATCHES, True, identify=identify))


def test_local_edits_are_refused_and_nothing_changes(stand_in: Path) -> None:
    identify = faked(stand_in)
    (stand_in / "train.py").write_text("edited\n")
    before = contents(stand_in)
    with pytest.raises(UserError, match=r"train\.py: has blob id [0-9a-f]{40}, expected 8d81b3f") as found:
        patch_checkout(stand_in, PATCHES, identify=identify)
    assert "\n" not in str(found.value)
    assert contents(stand_in) == before


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_local_edits_and_line_ends_are_merged_as_the_refusal_says(tmp_path: Path, end: str) -> None:
    """Its command puts zero-context lines where they belong, and takes them back."""

    def git(*words: str, told: bytes = b"") -> bytes:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, cwd=tmp_path, input=told, capture_output=True, check=True).stdout

    git("init", "-q")
    git("config", "core.autocrlf", "true" if end == "\r\n" else "false")
    file, lines = tmp_path / "train.py", [f"line {i}" for i in range(40)]

    def commit(kept: list[str]) -> None:
        file.write_bytes(end.join([*kept, ""]).encode())
        git("add", "train.py")
        git("commit", "-qm", "more")

    commit(lines)
    file.write_bytes(end.join([*lines[:20], "ours", *lines[20:], ""]).encode())
    patch = git("diff", "-U0", "--full-index")
    edited = ["edit 1", "edit 2", *lines]
    commit(edited)
    (tmp_path / "ours.patch").write_bytes(patch)
    by_hand = re.findall(
        r"`cat \S+ \| (git apply [^`]+)`", (PATCHES[0].path.parent / "README.md").read_text(encoding="utf-8")
    )
    assert by_hand == [MERGE]
    git(*MERGE.split()[1:], told=patch)
    assert file.read_bytes().decode().split(end) == [*edited[:22], "ours", *edited[22:], ""]
    git(*MERGE.split()[1:], "--reverse", told=patch)
    assert file.read_bytes().decode().split(end) == [*edited, ""]
    with pytest.raises(UserError) as found:
        patch_checkout(tmp_path, [Patch(tmp_path / "ours.patch", {"train.py": ("0" * 40, "1" * 40)})])
    assert f"cat {tmp_path}/*.patch | {MERGE}'" in str(found.value)


def test_a_patch_of_which_half_is_applied_is_refused(stand_in: Path) -> None:
    identify, before = faked(stand_in), contents(stand_in)
    patch_checkout(stand_in, PATCHES, identify=identify)
    (stand_in / "style_mixing.py").write_bytes(before["style_mixing.py"])
    with pytest.raises(UserError, match=r"style_mixing\.py: has blob id"):
        patch_checkout(stand_in, PATCHES, identify=identify)


def test_one_patch_taken_away_comes_again(stand_in: Path) -> None:
    identify, before = faked(stand_in), contents(stand_in)
    patch_checkout(stand_in, PATCHES, identify=identify)
    (stand_in / "generate.py").write_bytes(before["generate.py"])
    lines = patch_checkout(stand_in, PATCHES, identify=identify)
    assert [": applied (" in line for line in lines] == [p.path.stem == "0003-generate-condition" for p in PATCHES]


def test_git_that_refuses_is_one_line(stand_in: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.patch"
    text = PATCHES[1].path.read_text().replace("@@ -23,0 +24 @@", "@@ -23 +24 @@\n-not there")
    broken.write_text(text)
    before = contents(stand_in)
    with pytest.raises(UserError, match="git apply refused the patches, nothing was changed") as found:
        patch_checkout(stand_in, [PATCHES[0], Patch(broken, PATCHES[1].blobs)], identify=faked(stand_in))
    assert "\n" not in str(found.value)
    assert contents(stand_in) == before


def test_without_git_one_line(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(stand_in))
    with pytest.raises(UserError, match="git: is not installed"):
        patch_checkout(stand_in, PATCHES, identify=faked(stand_in))


def test_a_folder_that_is_no_checkout(tmp_path: Path) -> None:
    found = CliRunner().invoke(patch_command, [str(tmp_path)]).exception
    assert isinstance(found, UserError)
    assert "is missing; give the root of a checkout" in str(found)


def test_blob_id_is_git_s(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"some\r\ncontent")
    said = subprocess.run(["git", "hash-object", "--no-filters", str(file)], capture_output=True, text=True, check=True)
    assert blob_id(file) == said.stdout.strip()


def test_git_gets_the_patches_as_they_are_on_windows(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text that is sent to a process gets carriage returns there, and git then finds none of the lines."""
    run = subprocess.run

    def run_there(words: list[str], input: str | bytes, **more: object) -> object:
        return run(words, input=input.replace("\n", "\r\n") if isinstance(input, str) else input, **more)

    monkeypatch.setattr(subprocess, "run", run_there)
    patch_checkout(stand_in, PATCHES, identify=faked(stand_in))
    assert not any(b"\r" in content for content in contents(stand_in).values())
