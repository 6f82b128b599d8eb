"""The signals by which a terminal, a service manager or a scheduler asks a process to end."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# On Windows Ctrl-C reaches every process of a console by itself, and a signal sent to one would end it on the spot.
REACHES_ALL = sys.platform == "win32"
# Ctrl-C, kill, a terminal that was closed, Ctrl-Break of Windows.
_ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))
# Exit codes of a process that was asked to end, and left in good order.
LEFT = frozenset(128 + signum for signum in _ENDING)


@contextmanager
def asked_to_end(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Calls ``handler(signum, frame)`` in the block when this process is asked to end, then restores what was before.

    What follows within a second is the same request: a terminal or a service manager signals every process of a job,
    and the first process passes it on besides. What is ignored (SIGHUP under nohup) stays so, but for Ctrl-C, which
    workers and a script's background jobs are started without.
    """
    last = -math.inf

    def take(signum: int, frame: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 1:
            last = now
            handler(signum, frame)

    previous = {}
    for signum in _ENDING:
        before = signal.getsignal(signum)
        if before is not signal.SIG_IGN or signum == signal.SIGINT:
            previous[signum] = before
            signal.signal(signum, take)
    try:
        yield
    finally:
        for signum, before in previous.items():
            signal.signal(signum, before)


def leave(signum: int, _frame: Any = None) -> None:
    """Ends this process by an exception, so that what was begun is cleared away.

    Raises:
        KeyboardInterrupt: of Ctrl-C.
        SystemExit: of the others, with the shell's exit code 128 + signum.
    """
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + signum)
