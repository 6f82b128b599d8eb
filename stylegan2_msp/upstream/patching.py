"""Applies `patches/` to a checkout of stylegan2-ada-pytorch, all or nothing, and takes them back to the byte."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stylegan2_msp.errors import UserError

COMMIT = "d72cc7d041b42ec8e806021a205ed9349f87c6a4"
MERGE = "git apply --unidiff-zero --3way"  # without --3way zero context goes by line numbers, right or wrong
_INDEX = re.compile(r"^diff --git a/(\S+) b/\1\nindex ([0-9a-f]{40})\.\.([0-9a-f]{40})$", re.MULTILINE)
_UNTOUCHED, _PATCHED = "untouched", "patched"


@dataclass(frozen=True)
class Patch:
    """One file of `patches/`.

    Attributes:
        path: the file.
        blobs: for each file that it changes, git's ids of the contents before and after.
    """

    path: Path
    blobs: dict[str, tuple[str, str]]

    @property
    def purpose(self) -> str:
        """Its first line, without the word."""
        return self.path.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("Purpose: ")


def our_patches() -> list[Patch]:
    """The patches of this project, in order; no file is in two of them.

    Raises:
        UserError: they are not there.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "patches", package.parent / "patches"):
        files = sorted(folder.glob("*.patch"))
        if files:
            return [read_patch(path) for path in files]
    raise UserError(f"{package / 'patches'}: holds no patches; install stylegan2-msp again")


def read_patch(path: Path) -> Patch:
    """A patch file with the ids that git wrote into it."""
    found = _INDEX.findall(path.read_text(encoding="utf-8"))
    return Patch(path, {name: (before, after) for name, before, after in found})


def blob_id(path: Path) -> str:
    """What `git hash-object --no-filters` says of a file."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def patch_checkout(
    checkout: Path,
    patches: Sequence[Patch],
    reverse: bool = False,
    check: bool = False,
    identify: Callable[[Path], str] = blob_id,
) -> list[str]:
    """Applies patches that are not applied yet, or takes them back.

    Args:
        checkout: root of the checkout; it need not be a git repository.
        patches: which.
        reverse: take them back.
        check: only look.
        identify: tells a file's content.

    Returns:
        One line per patch: what was done, or what would be.

    Raises:
        UserError: a file is missing or is neither as the patch expects it nor as it leaves it; nothing was changed.
    """
    states = [_state(checkout, patch, identify) for patch in patches]
    wanted = _PATCHED if reverse else _UNTOUCHED
    todo = [patch for patch, state in zip(patches, states, strict=True) if state == wanted]
    if todo and not check:
        _git_apply(checkout, [patch.path for patch in todo], reverse)
        _verify(checkout, todo, reverse, identify)
    verb = ("taken back", "not applied") if reverse else ("applied", "already applied")
    if check:
        verb = ("can be taken back", "not applied") if reverse else ("can be applied", "already applied")
    return [f"{patch.path.stem}: {verb[patch not in todo]} ({patch.purpose})" for patch in patches]


def _state(checkout: Path, patch: Patch, identify: Callable[[Path], str]) -> str:
    """Whether the files of a patch are all as it expects them or all as it leaves them."""
    first = None
    for name, (before, after) in patch.blobs.items():
        path = checkout / name
        if not path.is_file():
            raise UserError(f"{path}: is missing; give the root of a checkout of stylegan2-ada-pytorch {COMMIT[:7]}")
        found = identify(path)
        state = {before: _UNTOUCHED, after: _PATCHED}.get(found)
        if state is None or (first is not None and state != first):
            raise UserError(
                f"{path}: has blob id {found}, expected {before} ({COMMIT[:7]}) for {patch.path.name} (edits, or "
                f"other line ends); commit it and merge ('cat {patch.path.parent}/*.patch | {MERGE}' in the "
                f"checkout), or drop the edits ('git checkout {COMMIT[:7]} -- {name}')"
            )
        first = state
    return first or _UNTOUCHED


def _git_apply(checkout: Path, files: list[Path], reverse: bool) -> None:
    """One `git apply` of all files as one patch: it changes either everything or nothing."""
    command = ["git", "-c", "core.autocrlf=false", "apply", "--unidiff-zero", "--whitespace=nowarn"]
    command += ["--reverse"] if reverse else []
    # A repository around the checkout would make git look for its files elsewhere.
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    surroundings["GIT_CEILING_DIRECTORIES"] = str(checkout.resolve().parent)
    try:
        done = subprocess.run(
            [*command, "-"],
            input="".join(path.read_text(encoding="utf-8") for path in files).encode(),  # text gets CRLF on Windows
            cwd=checkout,
            env=surroundings,
            capture_output=True,
        )
    except FileNotFoundError:
        raise UserError("git: is not installed, and `patch` applies its patches with it; install git") from None
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())[:300]
        raise UserError(f"{checkout}: git apply refused the patches, nothing was changed ({said})")


def _verify(checkout: Path, patches: list[Patch], reverse: bool, identify: Callable[[Path], str]) -> None:
    for patch in patches:
        for name, blobs in patch.blobs.items():
            found, wanted = identify(checkout / name), blobs[0 if reverse else 1]
            if found != wanted:
                raise UserError(f"{checkout / name}: git apply left blob id {found}, expected {wanted}; restore it")
