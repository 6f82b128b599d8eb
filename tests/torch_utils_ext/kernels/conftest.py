"""Runs the CUDA sources on the host: the same specialisation, grid and arguments that a launcher would give the GPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

from torch_utils_ext import build
from torch_utils_ext.kernels.launch import Launch

HostRun = Callable[..., None]


@pytest.fixture
def on_host(tmp_path: Path) -> Callable[[Iterable[Launch]], HostRun]:
    """Compiles launches with the host's C++ compiler, all in one library; returns run(launch, *tensors or None)."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler (g++ or clang++) to compile the kernels for the host")

    def compile_all(launches: Iterable[Launch], sources: Path = build.SOURCES) -> HostRun:
        unique = sorted({(launch.stem, launch.defines) for launch in launches})
        names = {key: f"kernel_{number}" for number, key in enumerate(unique)}
        text = '#include "numeric.h"\n'
        for (stem, defines), name in names.items():
            macros = {**dict(defines), "K_NAME": name}
            text += "".join(f"#define {macro} {value}\n" for macro, value in macros.items())
            text += f'namespace in_{name} {{\n#include "{stem}.cu"\n}}\n'
            text += "".join(f"#undef {macro}\n" for macro in macros)
        library = tmp_path / "kernels.so"
        (tmp_path / "kernels.cpp").write_text(text)
        command = [compiler, "-std=c++17", "-O1", "-w", "-fmax-errors=3", "-shared", "-fPIC", f"-I{sources}"]
        subprocess.run([*command, str(tmp_path / "kernels.cpp"), "-o", str(library)], check=True)
        loaded = ctypes.CDLL(str(library))

        def run(launch: Launch, *tensors: torch.Tensor | None) -> None:
            loaded.set_launch((ctypes.c_uint * 3)(*launch.grid), (ctypes.c_uint * 3)(*launch.block))
            pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors]
            numbers = [ctypes.c_double(v) if isinstance(v, float) else ctypes.c_longlong(v) for v in launch.args]
            loaded[names[launch.stem, launch.defines]](*pointers, *numbers)

        return run

    return compile_all
