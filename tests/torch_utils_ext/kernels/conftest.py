"""Runs the CUDA sources on the host: the same specialisation, grid and arguments that a launcher would give the GPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from torch_utils_ext import build
from torch_utils_ext.kernels.launch import Launch


class HostLibrary:
    """Launches compiled for the host; `library` gives access to whatever else was compiled with them."""

    def __init__(self, library: ctypes.CDLL, names: dict[Any, str]) -> None:
        self.library = library
        self.names = names

    def run(self, launch: Launch, *tensors: torch.Tensor | None) -> None:
        """Every block and thread, one after the other; an access that is not aligned is an error, as on the GPU."""
        self.library.set_launch((ctypes.c_uint * 3)(*launch.grid), (ctypes.c_uint * 3)(*launch.block))
        pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors]
        numbers = [ctypes.c_double(v) if isinstance(v, float) else ctypes.c_longlong(v) for v in launch.args]
        self.library[self.names[launch.stem, launch.defines]](*pointers, *numbers)
        assert self.library.count_misaligned() == 0, launch


HostCompiler = Callable[..., HostLibrary]


@pytest.fixture
def on_host(tmp_path: Path) -> HostCompiler:
    """compile(launches, extra): all specialisations, each in a namespace of its own, and `extra` C++ text."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler (g++ or clang++) to compile the kernels for the host")

    def compile_all(launches: Iterable[Launch], extra: str = "") -> HostLibrary:
        unique = sorted({(launch.stem, launch.defines) for launch in launches})
        names = {key: f"kernel_{number}" for number, key in enumerate(unique)}
        text = '#include "numeric.h"\n'
        for (stem, defines), name in names.items():
            macros = {**dict(defines), "K_NAME": name}
            text += "".join(f"#define {macro} {value}\n" for macro, value in macros.items())
            text += f'namespace in_{name} {{\n#include "{stem}.cu"\n}}\n'
            text += "".join(f"#undef {macro}\n" for macro in macros)
        source, library = tmp_path / "kernels.cpp", tmp_path / "kernels.so"
        source.write_text(text + extra)
        options = ["-std=c++17", "-O1", "-fwrapv", "-w", "-shared", "-fPIC", f"-I{build.SOURCES}"]
        subprocess.run([compiler, *options, str(source), "-o", str(library)], check=True)
        return HostLibrary(ctypes.CDLL(str(library)), names)

    return compile_all
