"""The way from a launcher to the driver, with a stand-in for cuda-core: what is loaded, once, and what is launched."""

from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from torch_utils_ext import build
from torch_utils_ext.kernels import launch


class FakeCore:
    """Records what cuda-core is asked to do."""

    def __init__(self) -> None:
        self.current: list[tuple[int, str]] = []
        self.loaded: list[bytes] = []
        self.launched: list[tuple[Any, ...]] = []
        self.streams = 0
        self.ObjectCode = SimpleNamespace(from_cubin=self._object, from_ptx=self._object)
        self.Stream = SimpleNamespace(from_handle=self._stream)

    def Device(self, index: int) -> Any:
        name = threading.current_thread().name
        return SimpleNamespace(set_current=lambda: self.current.append((index, name)))

    def LaunchConfig(self, grid: Any, block: Any) -> Any:
        return grid, block

    def launch(self, *args: Any) -> None:
        self.launched.append(args)

    def _object(self, code: bytes) -> Any:
        self.loaded.append(code)
        return SimpleNamespace(get_kernel=lambda name: f"{code.decode()}:{name}")

    def _stream(self, handle: int) -> str:
        self.streams += 1
        return f"stream {handle}"


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> FakeCore:
    """Two GPUs, of which torch's current one is number 0."""
    fake = FakeCore()
    current = [0]

    @contextlib.contextmanager
    def device(index: int) -> Any:
        before, current[0] = current[0], index
        yield
        current[0] = before

    monkeypatch.setattr(launch, "_state", launch._State())
    monkeypatch.setattr(build, "cuda_core", lambda: fake)
    monkeypatch.setattr(build, "nvrtc", lambda: ("13.0", [80, 90]))
    monkeypatch.setattr(build, "machine_code", lambda stem, defines, arch: f"{stem} {len(defines)} {arch}".encode())
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=40 + index))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9 - index, 0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return fake


def a_launch(defines: build.Defines = (("K_NAME", "op"),)) -> launch.Launch:
    return launch.Launch("op", defines, (3, 2, 1), (64, 1, 1), (7, 0.5))


def test_loaded_once_launched_often(core: FakeCore) -> None:
    """Arguments are the pointers, then the constants; equal specialisations share one kernel."""
    first, second = a_launch(), a_launch()
    gpu = torch.device("cuda", 0)
    for one in (first, first, second):
        launch.run(one, gpu, 100, 200)
    assert core.loaded == [b"op 1 sm_90"]
    assert core.launched == [("stream 40", ((3, 2, 1), (64, 1, 1)), "op 1 sm_90:op", 100, 200, 7, 0.5)] * 3
    assert core.streams == 1
    assert core.current == [(0, "MainThread")]


def test_another_gpu(core: FakeCore) -> None:
    """Built for that GPU, launched on its stream, while it is torch's current one."""
    one = a_launch()
    for index in (0, 1, 0, 1):
        launch.run(one, torch.device("cuda", index), 1)
    assert core.loaded == [b"op 1 sm_90", b"op 1 sm_80"]
    assert [args[0] for args in core.launched] == ["stream 40", "stream 41"] * 2
    assert torch.cuda.current_device() == 0


def test_another_thread(core: FakeCore) -> None:
    """Autograd's threads have no current context of their own until one is made current there."""
    one = a_launch()
    launch.run(one, torch.device("cuda", 0), 1)
    thread = threading.Thread(
        target=lambda: [launch.run(one, torch.device("cuda", 0), 1) for _ in range(2)], name="other"
    )
    thread.start()
    thread.join()
    assert core.current == [(0, "MainThread"), (0, "other")]
    assert len(core.loaded) == 1
    assert len(core.launched) == 3


def test_a_driver_that_refuses(core: FakeCore) -> None:
    """One line naming the kernel and the driver; after that nothing more is loaded, but what was loaded still runs."""
    good = a_launch()
    launch.run(good, torch.device("cuda", 0), 1)

    def refuse(code: bytes) -> Any:
        raise RuntimeError("CUDA_ERROR_UNSUPPORTED_PTX_VERSION")

    core.ObjectCode.from_cubin = refuse
    bad = a_launch((("K_NAME", "op"), ("K_OTHER", "1")))
    for _ in range(2):
        with pytest.raises(build.KernelsUnavailable, match=r"driver refuses the kernel op .*UNSUPPORTED.*update"):
            launch.run(bad, torch.device("cuda", 0), 1)
    launch.run(good, torch.device("cuda", 0), 1)
    assert len(core.launched) == 2


def test_a_kernel_that_is_first_met_while_a_graph_is_recorded(core: FakeCore, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA loads none then; the driver is not to blame, and the next time the kernel is there."""

    def refuse(code: bytes) -> Any:
        raise RuntimeError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(launch._PROBE, "ready", {})
    one = a_launch()
    with monkeypatch.context() as recording:
        recording.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        recording.setattr(core.ObjectCode, "from_cubin", refuse)
        for call in (launch.why_not, lambda: launch.run(one, torch.device("cuda", 0), 1)):
            with pytest.raises(RuntimeError, match=r"while a CUDA graph is recorded .*CAPTURE_UNSUPPORTED") as found:
                call()
            assert not isinstance(found.value, build.KernelsUnavailable)
    assert launch.why_not() is None
    launch.run(one, torch.device("cuda", 0), 1)
    assert len(core.launched) == 1


def test_memory_format() -> None:
    """channels_last only where it is not contiguous as well; other strides are read as contiguous."""
    x = torch.zeros(2, 3, 4, 5)
    assert launch.memory_format(x) == torch.contiguous_format
    assert launch.memory_format(x.contiguous(memory_format=torch.channels_last)) == torch.channels_last
    assert launch.memory_format(x.permute(0, 2, 3, 1)) == torch.contiguous_format
    assert launch.memory_format(torch.zeros(2, 3)) == torch.contiguous_format


def test_a_binding_that_fails_in_its_own_way(core: FakeCore, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """Whatever it raises: the plain operators take over, and one line says why."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def fail(index: int) -> Any:
        raise AttributeError("no set_current here")

    monkeypatch.setattr(core, "Device", fail)
    wanted = "cuda-core fails (no set_current here); the plain PyTorch operators are used"
    assert launch.why_not() == launch.why_not() == wanted
    assert [record.getMessage() for record in caplog.records] == [f"CUDA kernels: {wanted}"]
    with pytest.raises(build.KernelsUnavailable, match="cuda-core fails"):
        launch.run(a_launch(), torch.device("cuda", 0), 1)
