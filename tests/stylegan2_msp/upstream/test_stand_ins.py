"""What stands in for today's libraries in a checkout, and the hook that puts it there. No checkout is needed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stylegan2_msp.errors import UserError
from stylegan2_msp.networks import Generator
from stylegan2_msp.upstream import compat, stand_ins
from stylegan2_msp.upstream.adapter import ReferenceGenerator
from stylegan2_msp.upstream.hook import CHANGES, _truth
from stylegan2_msp.upstream.operators import OPERATORS


def test_percentile_takes_the_old_word() -> None:
    values = np.array([0.0, 1.0, 2.0, 10.0])
    assert stand_ins.percentile(values, 50, interpolation="lower") == 1.0
    assert stand_ins.percentile(values, 50, interpolation="higher") == 2.0
    assert stand_ins.NUMPY_HERE.percentile(values, 50) == 1.5
    assert stand_ins.NUMPY_HERE.float32 is np.float32


def test_matrix_root_in_both_forms() -> None:
    a = np.array([[2.0, 1.0], [1.0, 3.0]])
    root, error = stand_ins.SCIPY_HERE.linalg.sqrtm(a, disp=False)
    np.testing.assert_allclose(root @ root, a, atol=1e-12)
    assert error < 1e-12
    np.testing.assert_allclose(stand_ins.SCIPY_HERE.linalg.sqrtm(a), root)


@pytest.mark.parametrize(("shape", "mode"), [((4, 4, 1), "L"), ((4, 4), "L"), ((4, 4, 3), "RGB")])
def test_images_say_their_mode(shape: tuple[int, ...], mode: str) -> None:
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    image = stand_ins.PIL_HERE.Image.fromarray(pixels, "RGB")
    assert image.mode == mode
    np.testing.assert_array_equal(np.asarray(image), pixels.squeeze())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_is_the_cpu_where_there_is_none() -> None:
    here = stand_ins.torch_here()
    assert here.device("cuda", 1) == here.device("cuda") == torch.device("cpu")
    assert torch.device("cuda").type == "cuda"
    x = torch.ones(2)
    assert x.pin_memory() is x


def test_distances_in_half_precision() -> None:
    a, b = torch.randn(1, 5, 3), torch.randn(1, 4, 3)
    found = stand_ins.cdist_any(a.half(), b.half())
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), torch.cdist(a, b), atol=2e-2, rtol=1e-2)


def test_sampler_that_hands_its_data_to_torch() -> None:
    class Old(torch.utils.data.Sampler):  # as the checkout's: super().__init__(dataset)
        def __init__(self, dataset: list[int]) -> None:
            super().__init__(dataset)
            self.dataset = dataset

        def __iter__(self):  # type: ignore[no-untyped-def]
            yield from self.dataset

    misc = types.SimpleNamespace(InfiniteSampler=Old)
    compat.sampler_without_data_source(misc)
    assert list(misc.InfiniteSampler(dataset=[3, 1])) == [3, 1]
    assert issubclass(misc.InfiniteSampler, Old)


@pytest.mark.parametrize(
    "how", [{}, {"stride": 2, "padding": 1}, {"stride": (2, 2), "padding": (0, 1)}, {"groups": 2}, {"dilation": 2}]
)
def test_convolutions_are_torch_s_to_the_second_gradient(how: dict[str, object]) -> None:
    torch.manual_seed(0)
    for name, plain in (("conv2d", F.conv2d), ("conv_transpose2d", F.conv_transpose2d)):
        x = torch.randn(2, 4, 7, 7, dtype=torch.float64, requires_grad=True)
        w = torch.randn(4, 4 // int(how.get("groups", 1)), 3, 3, dtype=torch.float64, requires_grad=True)  # type: ignore[call-overload]
        b = torch.randn(4, dtype=torch.float64, requires_grad=True)
        results = []
        for conv in (OPERATORS["conv2d_gradfix"][name], plain):
            y = conv(x, w, bias=b, **how)
            (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            results.append((y, first, *torch.autograd.grad(first.square().sum(), (x, w, b))))
        for ours, wanted in zip(*results, strict=True):
            torch.testing.assert_close(ours, wanted)


def test_grid_sample_can_be_differentiated_twice_and_fma_is_a_sum() -> None:
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    grid = torch.rand(1, 4, 4, 2, dtype=torch.float64) * 2 - 1
    sample = OPERATORS["grid_sample_gradfix"]["grid_sample"]
    assert torch.autograd.gradgradcheck(lambda v: sample(v, grid), (x,))
    assert sample(x, grid.clone().requires_grad_()).requires_grad  # falls back on PyTorch's
    a, b, c = torch.randn(3, 2, 1), torch.randn(2, 4), torch.randn(4)
    torch.testing.assert_close(OPERATORS["fma"]["fma"](a, b, c), a * b + c)


def test_words_that_distutils_knew() -> None:
    assert [_truth(word) for word in ("yes", "TRUE", "1", "n", "off", "0")] == [1, 1, 1, 0, 0, 0]
    with pytest.raises(ValueError, match="maybe"):
        _truth("maybe")


def test_every_change_has_its_function() -> None:
    assert all(callable(getattr(compat, name)) for name in CHANGES.values())


def test_modules_are_altered_as_they_are_imported(tmp_path: Path) -> None:
    ops = tmp_path / "torch_utils" / "ops"
    ops.mkdir(parents=True)
    (tmp_path / "torch_utils" / "__init__.py").write_text("import stylegan2_msp.upstream.hook\n")
    (ops / "__init__.py").write_text("")
    (ops / "fma.py").write_text("def fma(a, b, c):\n    return 'old'\n\nmark = 'kept'\n")
    (ops / "other.py").write_text("fma = 'old'\n")
    program = """
        from torch_utils.ops import fma, other
        import inspect, sys, torch
        assert fma.fma(torch.ones(1), torch.ones(1), torch.ones(1)).item() == 2
        assert fma.mark == "kept" and other.fma == "old"
        assert "return 'old'" in inspect.getsource(fma)
        import distutils.util
        assert distutils.util.strtobool("on") == 1
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, check=True)


def test_resuming_from_another_shape_is_one_line() -> None:
    sizes = {"z_dim": 8, "w_dim": 8, "img_resolution": 8, "img_channels": 1, "synthesis_kwargs": {"channel_base": 64}}
    plain, ours, same = (
        kind(c_dim=c, **sizes) for kind, c in ((Generator, 0), (ReferenceGenerator, 4), (Generator, 4))
    )
    copied = []
    copy = compat.naming_shapes(lambda src, dst, require_all: copied.append((src, dst, require_all)))
    with pytest.raises(UserError, match=r"--resume: mapping\.fc0\.weight is \[8, 8\] there and \[8, 16\] here"):
        copy(plain, ours)
    copy(same, ours, require_all=False)
    copy(ours, plain)  # not ours: as the checkout does it
    assert copied == [(same, ours, False), (ours, plain, False)]
