"""Building kernels: compiling for real targets without a GPU, the cache, many processes at once, and failures."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from torch_utils_ext import build, kernels
from torch_utils_ext.build import KernelsUnavailable
from torch_utils_ext.kernels import bias_act, launch, upfirdn2d
from torch_utils_ext.kernels.launch import SCALARS, Launch

TARGETS = ("sm_80", "sm_90", "sm_100")
needs_nvrtc = pytest.mark.skipif(
    importlib.util.find_spec("cuda") is None
    or importlib.util.find_spec("cuda.core") is None
    or importlib.util.find_spec("nvidia") is None,
    reason="cuda-core or NVRTC is not installed",
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the folder does not exist yet."""
    monkeypatch.setenv("STYLEGAN2_MSP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


@pytest.fixture
def fresh_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing had been tried in this process, on a machine with a GPU."""
    monkeypatch.setattr(launch, "_state", launch._State())
    monkeypatch.setattr(launch._PROBE, "ready", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)


def bias_act_launches() -> list[Launch]:
    """All orders, types and kinds of bias; all activations as halves."""
    wanted = [(order, dtype, "swish") for order in range(3) for dtype in SCALARS]
    wanted += [(order, torch.float16, act.lower()) for order in range(3) for act in ("LRELU", "SELU", "SOFTPLUS")]
    made = [
        bias_act.launch_for(order, (2, 8, 16, 16), dtype, False, True, True, 1, act, 0.2, 1.0, 256.0)
        for order, dtype, act in wanted
    ]
    made += [
        bias_act.launch_for(0, (2, 8, 16, 16), torch.float16, True, True, True, 1, act, 0.2, 1.0, None)
        for act in ("linear", "relu", "tanh", "sigmoid", "elu")
    ]
    odd = bias_act.launch_for(0, (2, 7, 5, 5), torch.float16, False, True, True, 1, "lrelu", 0.2, 1.0, 256.0)
    large = bias_act.launch_for(0, (1, 4, 2**15, 2**15), torch.float16, False, True, True, 1, "lrelu", 0.2, 1.0, 256.0)
    return [*made, odd, large]


def upfirdn2d_launches() -> list[Launch]:
    """The filters of StyleGAN in all types, both formats, aligned rows and others; the general kernel."""
    tasks = []
    for dtype in SCALARS:
        for last in (False, True):
            shape = (2, 64, 64, 64)
            tasks += [
                upfirdn2d.Task(shape, dtype, last, (4, 4), False, (1, 1), (1, 1), (2, 1, 2, 1), False, 1.0),
                upfirdn2d.Task(shape, dtype, last, (4, 4), False, (2, 2), (1, 1), (2, 1, 2, 1), False, 4.0),
                upfirdn2d.Task(shape, dtype, last, (4, 4), False, (1, 1), (2, 2), (1, 1, 1, 1), True, 1.0),
                upfirdn2d.Task(shape, dtype, last, (9, 9), False, (3, 3), (1, 1), (4, 4, 4, 4), False, 1.0),
            ]
        odd = (2, 64, 65, 65)
        tasks += [
            upfirdn2d.Task(odd, dtype, False, (4, 4), False, (1, 1), (1, 1), (1, 1, 1, 1), False, 1.0),
            upfirdn2d.Task(shape, dtype, False, (4, 4), False, (1, 1), (1, 1), (2, 2, 2, 2), False, 1.0),
            upfirdn2d.Task(shape, dtype, False, (12, 12), True, (2, 2), (1, 1), (6, 5, 6, 5), False, 4.0),
            upfirdn2d.Task(shape, dtype, False, (12, 12), True, (1, 1), (2, 2), (5, 5, 5, 5), False, 1.0),
        ]
    return [made for task in tasks if (made := upfirdn2d.launch_for(task)[1]) is not None]


@needs_nvrtc
@pytest.mark.parametrize("target", TARGETS)
def test_a_kernel_of_each_kind_compiles(cache: Path, target: str) -> None:
    """Machine code for the target, with the kernel's name in it."""
    for made in (bias_act_launches()[8], upfirdn2d_launches()[1], upfirdn2d_launches()[5]):
        code = build.machine_code(made.stem, made.defines, target)
        assert code.startswith(b"\x7fELF")
        assert made.stem.encode() in code


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_all_kernels_compile(cache: Path, target: str) -> None:
    for made in [*bias_act_launches(), *upfirdn2d_launches()]:
        assert build.machine_code(made.stem, made.defines, target).startswith(b"\x7fELF"), made


@needs_nvrtc
def test_times(cache: Path) -> None:
    """Far less than 10 s to build what a layer needs, far less than 0.2 s to have it from the cache.

    In time of the processor, so that a busy machine does not matter.
    """
    wanted = [(made.stem, made.defines) for made in (bias_act_launches()[8], upfirdn2d_launches()[0])]
    build.nvrtc()
    begin = time.process_time()
    first = [build.machine_code(*want, "sm_90") for want in wanted]
    built = time.process_time()
    again = [build.machine_code(*want, "sm_90") for want in wanted]
    read = time.process_time()
    assert first == again
    assert built - begin < 10
    assert read - built < 0.2


@needs_nvrtc
def test_cache_key(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another source, specialisation, target or NVRTC is another entry; the same is not built twice."""
    probe = launch._PROBE
    build.machine_code(probe.stem, probe.defines, "sm_90")
    monkeypatch.setattr(build, "_compile", lambda stem, text, architecture: b"code")
    assert build.machine_code(probe.stem, probe.defines, "sm_90") != b"code"
    other = tuple((name, "double" if name == "K_SCALAR" else value) for name, value in probe.defines)
    assert build.machine_code(probe.stem, other, "sm_90") == b"code"
    assert build.machine_code(probe.stem, probe.defines, "sm_80") == b"code"
    monkeypatch.setattr(build, "nvrtc", lambda: ("1.0", [90]))
    assert build.machine_code(probe.stem, probe.defines, "sm_90") == b"code"
    assert len(list(cache.iterdir())) == 4


@needs_nvrtc
@pytest.mark.parametrize("damage", [b"", b"short", None, "flip"], ids=["empty", "short", "truncated", "changed"])
def test_damaged_cache_is_built_again(cache: Path, damage: bytes | str | None) -> None:
    probe = launch._PROBE
    code = build.machine_code(probe.stem, probe.defines, "sm_90")
    (path,) = cache.iterdir()
    content = path.read_bytes()
    assert content == hashlib.sha256(code).digest() + code
    if damage is None:
        path.write_bytes(content[:-100])
    elif damage == "flip":
        path.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    else:
        path.write_bytes(damage)
    assert build.machine_code(probe.stem, probe.defines, "sm_90") == code
    assert path.read_bytes() == content
    assert list(cache.iterdir()) == [path]


@needs_nvrtc
def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is in the folder's place: kernels are built all the same."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STYLEGAN2_MSP_CACHE", str(tmp_path / "file"))
    probe = launch._PROBE
    assert build.machine_code(probe.stem, probe.defines, "sm_90").startswith(b"\x7fELF")


def _build(folder: str, start: Any, results: Any) -> None:
    os.environ["STYLEGAN2_MSP_CACHE"] = folder
    build.nvrtc()
    start.wait()
    probe = launch._PROBE
    results.put([hashlib.sha256(build.machine_code(probe.stem, probe.defines, "sm_90")).hexdigest() for _ in range(5)])


@needs_nvrtc
@pytest.mark.slow
def test_many_processes_at_once(cache: Path) -> None:
    """Four processes build the same kernel at the same time: all get the same code, one whole file remains."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_build, args=(str(cache.parent), start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    digests = {digest for _ in processes for digest in results.get(timeout=120)}
    for process in processes:
        process.join()
    (path,) = cache.iterdir()
    assert digests == {hashlib.sha256(path.read_bytes()[32:]).hexdigest()}


def test_default_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STYLEGAN2_MSP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.setattr(sys, "platform", "linux")
    assert build.cache_folder() == Path("/caches/stylegan2-msp/kernels")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert build.cache_folder() == Path("/local/stylegan2-msp/kernels")


@pytest.mark.parametrize(
    ("capability", "expected"),
    [(80, "sm_80"), (86, "sm_86"), (89, "sm_86"), (90, "sm_90"), (103, "sm_100"), (75, "sm_75"), (130, "compute_100")],
)
def test_target(capability: int, expected: str) -> None:
    """The GPU's own generation where NVRTC knows it, otherwise PTX of the newest one before it."""
    assert build.target(capability, [75, 80, 86, 90, 100]) == expected


def test_target_of_an_old_gpu() -> None:
    with pytest.raises(KernelsUnavailable, match=r"6\.1.*starts at 7\.5"):
        build.target(61, [75, 80])


def test_without_a_gpu() -> None:
    """One line says why; nothing is written to the log, since nothing is wrong."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    reason = kernels.why_not()
    assert reason is not None
    assert "no CUDA GPU" in reason
    assert not kernels.available()


def test_without_cuda_core(monkeypatch: pytest.MonkeyPatch, fresh_state: None, caplog: Any) -> None:
    """A GPU but no cuda-core: one line with the remedy, said once; every launcher then says the same."""
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    monkeypatch.setitem(sys.modules, "cuda.core.experimental", None)
    with caplog.at_level(logging.WARNING):
        assert not kernels.available()
        assert not kernels.available()
    (record,) = caplog.records
    line = record.getMessage()
    assert "\n" not in line
    assert "cuda-core cannot be imported" in line
    assert "pip install cuda-core" in line
    assert kernels.why_not() in line
    with pytest.raises(KernelsUnavailable, match="pip install cuda-core"):
        launch.run(launch._PROBE, torch.device("cuda", 0))


def test_nobody_is_told_to_install_what_macos_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(KernelsUnavailable, match=r"^macOS has no CUDA$"):
        build.nvrtc()


@needs_nvrtc
def test_a_source_that_does_not_compile(
    monkeypatch: pytest.MonkeyPatch, fresh_state: None, cache: Path, caplog: Any
) -> None:
    """The compiler's first error is in the line; the build is tried once."""
    tried = []

    def broken(stem: str, defines: Any) -> str:
        tried.append(stem)
        return 'extern "C" __global__ void bias_act() { nonsense; }'

    monkeypatch.setattr(build, "program", broken)
    monkeypatch.setattr("cuda.core.Device", lambda index: type("Device", (), {"set_current": lambda self: None})())
    with caplog.at_level(logging.WARNING):
        assert not kernels.available()
        with pytest.raises(KernelsUnavailable):
            launch.run(launch._PROBE, torch.device("cuda", 0))
    assert len(tried) == 1
    (record,) = caplog.records
    assert "nonsense" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert not cache.exists()


def test_import_needs_nothing() -> None:
    """Importing the launchers imports neither cuda-core nor NVRTC."""
    text = "import sys, torch_utils_ext.kernels.bias_act, torch_utils_ext.kernels.upfirdn2d; "
    text += "print('cuda.core' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@needs_nvrtc
def test_a_user_without_a_home_gets_no_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers that run with any user's number: "~" stands for nothing there."""
    for name in ("STYLEGAN2_MSP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    probe = launch._PROBE
    assert build.machine_code(probe.stem, probe.defines, "sm_90").startswith(b"\x7fELF")
    assert list(tmp_path.iterdir()) == []
