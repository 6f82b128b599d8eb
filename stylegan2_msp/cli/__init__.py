"""Command line: parse, build a configuration, call; no logic."""

from __future__ import annotations

import errno
import io
import math
import os
import sys

import click

from stylegan2_msp.errors import UserError
from stylegan2_msp.signals import REACHES_ALL, asked_to_end, leave

# Before torch is imported: by default, waiting GNU OpenMP threads spin so long that torch crawls on busy cores.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# A path that cannot even be looked at.
_OF_PATHS = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.EISDIR)


def run(command: click.Command) -> None:
    """Runs a command; a `UserError` becomes one line on standard error and exit code 1, wrong usage exit code 2.

    When it is asked to end (Ctrl-C, `kill`, a terminal that closes) it first takes away what is half done.
    """
    _print_anything()
    try:
        with asked_to_end(leave):
            command(standalone_mode=False)
    except UserError as error:
        _fail(" ".join(str(error).split()), 1)
    except click.UsageError as error:
        _fail(f"{error.format_message()} (see --help)", 2)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped", 130)
    except RuntimeError as error:
        torch = sys.modules.get("torch")  # not imported for this alone
        if torch is None or not isinstance(error, torch.OutOfMemoryError):
            raise
        _fail("the GPU's memory is full; ask for fewer items at once with a smaller --batch, or take --device cpu", 1)
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        if REACHES_ALL and error.errno == errno.EINVAL and not error.filename:  # Windows' word for a broken pipe
            from stylegan2_msp.progress import silence

            silence(sys.stdout)
            sys.exit(141)
        if error.errno not in _OF_PATHS or not error.filename:
            raise
        _fail(f"{error.filename}: {error.strerror}; check the path", 1)


def finite(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    """Callback of an option whose number, if given, must be neither infinite nor NaN."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no finite number")
    return value


def _print_anything() -> None:
    """Has signs that standard output's encoding lacks (class names, paths; cp1252 of a pipe on Windows) escaped there.

    By default they would end the command. Worker processes learn it from their environment. In UTF-8 names of files
    that are none stay the bytes that they are.
    """
    if not isinstance(sys.stdout, io.TextIOWrapper):
        return
    plain = sys.stdout.errors == "surrogateescape" and not sys.stdout.encoding.lower().startswith("utf")  # LC_ALL=C
    if plain or sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
        os.environ["PYTHONIOENCODING"] = f"{sys.stdout.encoding}:backslashreplace"


def _fail(message: str, code: int) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
