"""Replacing files so that an interruption at any moment leaves either the old file or the new one."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stylegan2_msp.errors import UserError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path`` to write to, then puts it in place (write, fsync, rename).

    When the body fails nothing is left behind and what stood at ``path`` stays. The file can be read by whoever may
    read new files, however the body makes it. Where ``path`` is a link, what it leads to is replaced.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    target = Path(path)
    target = target.resolve() if target.is_symlink() else target
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        os.chmod(temporary, mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written ({error.strerror or error}); free space or choose another place"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def make_folder(path: str | Path) -> Path:
    """Makes a folder with its parents, and says in one line when that cannot be.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); choose another output folder") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: is not writable; choose another output folder")
    return folder


def refuse_address(path: str | Path) -> None:
    """Says that nothing is downloaded, where a file is named by its address in the web.

    Raises:
        UserError: it is.
    """
    if re.match(r"https?:/", str(path)):  # a Path has lost one of the slashes
        raise UserError(f"{path}: is an address in the web; download it and name the file")


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
