"""Compiles the CUDA sources of csrc/ at run time with NVRTC, through cuda-core, and keeps the machine code on disk."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent / "csrc"
Defines = tuple[tuple[str, str], ...]

_STANDARD = "c++17"
_DIGEST_BYTES = 32


class KernelsUnavailable(RuntimeError):
    """The CUDA kernels cannot be had here; the message is one line with the reason and the remedy."""


def program(stem: str, defines: Defines) -> str:
    """Complete text of ``csrc/<stem>.cu`` for one specialisation: macros first, the common header in place.

    The entry point has C linkage and is named by the macro K_NAME (see `csrc/numeric.h`).
    """
    header = (SOURCES / "numeric.h").read_text(encoding="utf-8")
    body = (SOURCES / f"{stem}.cu").read_text(encoding="utf-8").replace('#include "numeric.h"\n', header)
    return "".join(f"#define {name} {value}\n" for name, value in defines) + body


def cuda_core() -> Any:
    """The module of cuda-core that holds Program, launch and the rest (older versions call it experimental).

    Raises:
        KernelsUnavailable: cuda-core or what it needs is not installed.
    """
    if sys.platform == "darwin":
        raise KernelsUnavailable("macOS has no CUDA")
    for name in ("cuda.core", "cuda.core.experimental"):
        try:
            module = importlib.import_module(name)
        except Exception as error:  # besides ImportError: whatever it raises when it dislikes its bindings
            raise KernelsUnavailable(f"cuda-core cannot be imported ({_line(error)}); {_remedy()}") from error
        if hasattr(module, "Program"):
            return module
    raise KernelsUnavailable(f"this version of cuda-core is too old; {_remedy()}")


def nvrtc() -> tuple[str, list[int]]:
    """Version of the NVRTC in use, and the compute capabilities it compiles for, ascending: 90 stands for 9.0.

    Raises:
        KernelsUnavailable: there is none.
    """
    cuda_core()
    try:
        api = importlib.import_module("cuda.bindings.nvrtc")
        _, major, minor = api.nvrtcVersion()
        _, architectures = api.nvrtcGetSupportedArchs()
    except Exception as error:  # the loader's errors have no common class over versions
        raise KernelsUnavailable(f"NVRTC cannot be loaded ({_line(error)}); {_remedy()}") from error
    return f"{major}.{minor}", sorted(int(number) for number in architectures)


def target(capability: int, known: list[int]) -> str:
    """What to compile for: machine code if the GPU's generation is known to NVRTC, else PTX for the driver to finish.

    Args:
        capability: the GPU's, as in `nvrtc`.
        known: those that NVRTC compiles for.

    Raises:
        KernelsUnavailable: the GPU is older than all of them.
    """
    older = [number for number in known if number <= capability]
    if not older:
        raise KernelsUnavailable(
            f"the GPU has compute capability {capability / 10:.1f}, but NVRTC starts at {known[0] / 10:.1f}; "
            "install a build of torch for an older CUDA"
        )
    best = max(older)
    return f"sm_{best}" if best // 10 == capability // 10 else f"compute_{best}"


def machine_code(stem: str, defines: Defines, architecture: str) -> bytes:
    """Code of one specialisation for `architecture` ('sm_90': cubin, 'compute_90': PTX), from the cache if it is there.

    Raises:
        KernelsUnavailable: NVRTC is missing or refuses the source.
    """
    text = program(stem, defines)
    key = "\n".join((nvrtc()[0], architecture, _STANDARD, text))
    path = cache_folder() / f"{stem}-{architecture}-{hashlib.sha256(key.encode()).hexdigest()[:40]}.bin"
    code = _read(path)
    if code is None:
        code = _compile(stem, text, architecture)
        _write(path, code)
    return code


def cache_folder() -> Path:
    """Where machine code is kept: STYLEGAN2_MSP_CACHE, or the platform's folder for such things."""
    if own := os.environ.get("STYLEGAN2_MSP_CACHE"):
        return Path(own) / "kernels"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.expanduser(r"~\AppData\Local")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "stylegan2-msp" / "kernels"


def _compile(stem: str, text: str, architecture: str) -> bytes:
    core = cuda_core()
    try:
        options = core.ProgramOptions(std=_STANDARD, arch=architecture, name=f"{stem}.cu")
        compiled = core.Program(text, "c++", options).compile("cubin" if architecture.startswith("sm_") else "ptx")
        return bytes(compiled.code)
    except Exception as error:  # as above
        raise KernelsUnavailable(
            f"NVRTC could not compile {stem}.cu for {architecture} ({_line(error)}); please report this"
        ) from error


def _read(path: Path) -> bytes | None:
    """The code in a cache file; None if there is none or its checksum is wrong."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return code if code and hashlib.sha256(code).digest() == digest else None


def _write(path: Path, code: bytes) -> None:
    """Puts a whole file in place or leaves things as they are; a cache that cannot be written is no error."""
    if path.parts[0] == "~":  # the user has no home folder; this would make one in the current folder
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(code).digest() + code)
            os.replace(name, path)
        except OSError:
            os.unlink(name)


def _line(error: BaseException) -> str:
    """The telling line of an exception: the compiler's first error, otherwise the first line there is."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "error:" in line]
    return (telling or lines or [type(error).__name__])[0][:300]


def _remedy() -> str:
    """What to install, for the CUDA that torch was built with."""
    import torch

    major = (torch.version.cuda or "13").split(".")[0]
    runtime = "nvidia-cuda-nvrtc" if int(major) >= 13 else f"nvidia-cuda-nvrtc-cu{major}"
    return f'pip install cuda-core "cuda-bindings=={major}.*" "{runtime}=={major}.*"'
