"""Progress for anything over two seconds: a bar with ETA on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
_PLAIN_EVERY_SEC = 15.0


def make_bar(transient: bool = False) -> Progress:
    """A bar on standard error with count, elapsed time and time to go."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}"),
        transient=transient,
        console=_stderr_console(),
    )


def track(items: Iterable[T], description: str, total: int, unit: str = "", step: int = 1) -> Iterator[T]:
    """Yields ``items`` and shows how far it is; each item counts ``step`` of ``total`` units."""
    if on_terminal():
        with make_bar() as bar:
            task = bar.add_task(description, total=total, unit=unit, info="")
            for item in items:
                yield item
                bar.advance(task, min(step, total))
        return
    start = shown = time.monotonic()
    for index, item in enumerate(items):
        yield item
        now = time.monotonic()
        if now - shown >= _PLAIN_EVERY_SEC:
            shown = now
            done = min((index + 1) * step, total)
            eta = (now - start) / done * (total - done)
            print(f"{description}: {done}/{total} {unit}, ETA {eta:.0f} s", file=sys.stderr, flush=True)


def tell(line: str) -> None:
    """Prints a line of what must go on when the console is gone (`| head`, a closed terminal)."""
    try:
        print(line, flush=True)
    except OSError:
        silence(sys.stdout)


def silence(stream: TextIO) -> None:
    """Leads a stream whose other end is gone to nowhere, so that what follows, the exit's flush too, finds no fault."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def on_terminal() -> bool:
    """Whether standard error is a terminal; what a host program puts in its place may not know."""
    known = getattr(sys.stderr, "isatty", None)
    return known is not None and bool(known())


def _stderr_console() -> Console:
    return Console(stderr=True)


@contextmanager
def torch_quiet() -> Iterator[None]:
    """Without what PyTorch tells its own developers while it exports: progress, warnings, half a graph of a failure."""
    logged = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logged)
