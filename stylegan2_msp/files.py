"""Replacing files so that an interruption at any moment leaves either the old file or the new one."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stylegan2_msp.errors import UserError

_PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0)  # seconds between tries to replace a file that is in use


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path`` to write to, then puts it in place (write, fsync, rename).

    When the body fails nothing is left behind and what stood at ``path`` stays. The file can be read by whoever may
    read new files, however the body makes it. Where ``path`` is a link, what it leads to is replaced.

    Raises:
        UserError: the folder cannot be written, the disk is full, or on Windows the file stays open in another program.
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
        put_in_place(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written ({error.strerror or error}); free space or choose another place"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def put_in_place(made: Path, target: Path) -> None:
    """`os.replace`; waits for a while where Windows refuses it, as while a scanner or a viewer has either file open.

    Raises:
        UserError: it is open still.
        OSError: it cannot be for another reason.
    """
    for pause in (*_PAUSES, None):
        try:
            os.replace(made, target)
            return
        except PermissionError as error:
            if sys.platform != "win32":
                raise
            if pause is None:
                raise UserError(
                    f"{target}: is open in another program, or write-protected; close it there, or choose another place"
                ) from error
            time.sleep(pause)


def make_folder(path: str | Path, instead: str = "choose another output folder") -> Path:
    """Makes a folder with its parents, and says in one line when that cannot be, and what to do ``instead``.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); {instead}") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: is not writable; {instead}")
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
