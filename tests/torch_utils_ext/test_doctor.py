"""The doctor's verdicts: sound operators pass, each kind of mistake is seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torch_utils_ext import doctor
from torch_utils_ext.ops.bias_act import bias_act


def _of(operator: str, device: str = "cpu") -> doctor.Check:
    return next(check for check in doctor.self_test(device) if check.operator == operator)


def test_every_operator_passes() -> None:
    checks = list(doctor.self_test("cpu"))
    assert [check.operator for check in checks] == doctor.operators()
    assert all(check.passed for check in checks)
    # conv2d's values are PyTorch's own; everything else rounds somewhere
    assert all(check.errors and max(check.errors) > 0 for check in checks)


class _Lying(torch.autograd.Function):
    """The identity with a gradient that is 1 % off."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return 1.01 * grads[0]


@pytest.mark.parametrize("mistake", ["value", "gradient", "nan", "crash"])
def test_mistakes_are_seen(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x: torch.Tensor, b: torch.Tensor, act: str, clamp: float, impl: str) -> torch.Tensor:
        y = bias_act(x, b, act=act, clamp=clamp, impl=impl)
        if impl == "ref" or act != "swish":
            return y
        if mistake == "crash":
            raise RuntimeError("launch failed\nmore lines")
        return {"value": y + 0.01, "gradient": _Lying.apply(y), "nan": y * float("nan")}[mistake]

    monkeypatch.setattr(doctor, "bias_act", wrong)
    check = _of("bias_act")
    assert not check.passed
    if mistake == "gradient":
        assert check.errors is not None
        assert check.errors[0] < 1e-6 < check.errors[1]
    if mistake == "crash":
        assert check.problem == "RuntimeError: launch failed"
    assert _of("upfirdn2d").passed


def test_implementations_and_their_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.implementation("bias_act", "cpu")[0] == "plain PyTorch"
    monkeypatch.setattr(doctor.kernels, "why_not", lambda: None)
    assert doctor.implementation("upfirdn2d", "cuda")[0] == "our CUDA kernel"
    monkeypatch.setattr(doctor.kernels, "why_not", lambda: "no NVRTC; pip install it")
    assert doctor.implementation("upfirdn2d", "cuda") == ("plain PyTorch", "no NVRTC; pip install it")
    assert doctor.implementation("grid_sample", "cuda")[0] == "PyTorch's own kernels"


def test_findings_name_torch_and_the_reason_for_no_kernels() -> None:
    found = doctor.findings()
    assert torch.__version__ in found["torch"]
    if not torch.cuda.is_available():
        assert "no CUDA GPU" in found["CUDA kernels"]
    assert {"CUDA of torch", "GPU", "NVRTC", "cuda-core", "compilers"} <= set(found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_every_operator_passes_on_the_gpu() -> None:
    checks = list(doctor.self_test("cuda"))
    assert len(checks) == 3 * len(doctor.operators())
    assert [check for check in checks if not check.passed] == []
