"""What D is told of sharpness: known images, the ranks by a slow literal count, and who is told what."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stylegan2_msp.conditioning import level, make_labels
from stylegan2_msp.config import DataInfo, resolve
from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.data.dataset import TrainingSet
from stylegan2_msp.errors import UserError
from stylegan2_msp.training import sharpness as sharpening
from stylegan2_msp.training.distributed import World
from stylegan2_msp.training.losses import Objective
from stylegan2_msp.training.neighbours import Neighbours
from stylegan2_msp.training.sharpness import SharpnessRanks, rank_reals, sharpness
from stylegan2_msp.training.step import Trainer
from torch_utils_ext.rng import BatchRng

K = 3


def blurred(img: torch.Tensor, times: int) -> torch.Tensor:
    kernel = torch.tensor([0.25, 0.5, 0.25])
    weight = (kernel[:, None] * kernel)[None, None]
    for _ in range(times):
        img = torch.nn.functional.conv2d(torch.nn.functional.pad(img, (1, 1, 1, 1), mode="reflect"), weight)
    return img


def test_sharpness_of_known_images() -> None:
    noise = 0.3 * torch.randn(8, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    kept = 1 - 2 * 0.25 + (0.25**2 + 0.5**2 + 0.25**2) ** 2  # sum of squares of (identity - blur)
    torch.testing.assert_close(sharpness(noise), torch.full((8,), math.log(kept)), rtol=0, atol=0.05)
    order = torch.stack([sharpness(blurred(noise, n)) for n in range(5)])
    assert (order.diff(dim=0) < -0.1).all()  # each blur leaves less
    torch.testing.assert_close(sharpness(0.5 * noise + 0.2), sharpness(noise), rtol=0, atol=0.06)  # light and contrast
    assert float(sharpness(torch.full((1, 3, 16, 16), 0.7))) == pytest.approx(math.log(5e-6 / 1e-3), abs=1e-3)


def test_ranks_by_a_literal_count() -> None:
    rng = torch.Generator().manual_seed(1)
    n = 600
    classes, levels = torch.randint(0, K, (n,), generator=rng), torch.rand(n, generator=rng)
    img = torch.stack([blurred(torch.randn(1, 1, 8, 8, generator=rng), i % 3)[0] for i in range(n)])
    labels = make_labels(classes, levels, K)
    values = sharpness(img)
    found = SharpnessRanks(values, labels, K)(img, labels)
    for i in range(0, n, 37):
        same = sorted((float(levels[j]), float(values[j])) for j in range(n) if classes[j] == classes[i])
        at = same.index((float(levels[i]), float(values[i])))
        near = [value for _, value in same[max(at - 32, 0) : at + 32]]
        share = sum(value < values[i] for value in near) / len(near)
        assert float(found[i]) == pytest.approx(share, abs=2 / 64)
    assert float(found.mean()) == pytest.approx(0.5, abs=0.02)  # uniform among reals, in every level
    assert float(found.std()) == pytest.approx(12**-0.5, abs=0.02)


def test_reals_that_share_a_level_are_ranked_among_all_of_them() -> None:
    values = torch.linspace(-8, 0, 1000)[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    labels = make_labels(torch.zeros(1000, dtype=torch.int64), 1.0, K)
    near = values[Neighbours(labels, K).of(labels[:1])[0]].sort().values
    torch.testing.assert_close(
        near.quantile(torch.tensor([0.1, 0.5, 0.9])), torch.tensor([-7.2, -4.0, -0.8]), rtol=0, atol=1
    )


def test_reals_of_another_level_are_not_taken_where_enough_share_the_level() -> None:
    levels = torch.cat([torch.linspace(0.9, 0.99, 100), torch.ones(900), torch.linspace(0.4, 0.5, 100)])
    found = Neighbours(make_labels([0] * 1000 + [1] * 100, levels, K), K).of(make_labels([0], 1.0, K))[0]
    assert levels[found].tolist() == [1.0] * 64
    assert len(found.unique()) == 64


def test_an_image_as_sharp_as_all_reals_has_the_middle_rank() -> None:
    """Flat images, say: 0 or 1 would make D tell them from fakes, whose rank is uniform."""
    flat = torch.full((1, 1, 8, 8), 0.3)
    ranks = SharpnessRanks(sharpness(flat).expand(200), make_labels([0] * 200, 0.8, K), K)
    assert ranks(flat, make_labels([0], 0.8, K)).tolist() == [0.5]


@pytest.fixture
def trainer(digits_archive: Path) -> Trainer:
    archive = open_archive(digits_archive)
    given = {"data": str(digits_archive), "batch": 32, "cfg": "tiny", "aug": "noaug", "label_noise": 0.1}
    config = resolve(given, DataInfo("images", 16, 1, 10, True), 1, "cpu", False)
    data = TrainingSet(archive, "class+msp", torch.device("cpu"))
    return Trainer(config, data, 10, None, World(0, 1, torch.device("cpu"), 1))


def test_d_is_told_the_rank_of_reals_and_the_number_of_fakes(trainer: Trainer) -> None:
    assert trainer.state.D.c_dim == trainer.state.G.c_dim + 1
    z, c, told = trainer._latents()
    torch.testing.assert_close(told[:, -1], 0.5 * (1 + torch.erf(z[:, 1] / 2**0.5)))
    assert torch.equal(told[:, :10], c[:, :10])
    assert not torch.equal(told[:, 10], c[:, 10])  # label noise is of u alone
    index, _, flip = trainer._draw()
    trainer._drawn.append((index, trainer.data.labels[index], flip))
    ((real, told),) = trainer._shown(trainer._reals())
    ranks = rank_reals(trainer.data, 10)
    torch.testing.assert_close(told[:, -1], ranks(real, trainer.data.labels[index]))
    before = [p.clone() for p in trainer.state.D.parameters()]
    trainer.step()
    moved = {
        name: not torch.equal(p, q)
        for (name, p), q in zip(trainer.state.D.named_parameters(), before, strict=True)
        if "by_u" in name
    }
    assert all(moved.values())


class Many(TrainingSet):
    """5,000 images of two classes, 3 of 100 below level 0.95."""

    def __init__(self) -> None:
        levels = torch.where(torch.arange(5000) % 100 < 3, torch.linspace(0.5, 0.95, 5000), 1.0)
        self.labels = make_labels(torch.arange(5000) // 7 % 2, levels, 2)
        self.looked = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return 5000

    def reals(self, index: torch.Tensor, flip: torch.Tensor | None = None) -> torch.Tensor:
        self.looked = torch.cat([self.looked, index])
        return torch.randn(len(index), 1, 8, 8)


def test_many_reals_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of those that are looked at are spread evenly over the levels, so rare levels keep their reals."""
    monkeypatch.setattr(sharpening, "_MOST", 400)
    data = Many()
    ranks = rank_reals(data, 2)
    assert 200 < len(data.looked) == len(data.looked.unique()) == len(ranks.values) <= 400
    rare = level(data.labels, 2) < 0.95
    assert float(rare[data.looked].float().mean()) > 0.3
    assert rare[data.looked].sum() > 0.8 * rare.sum()


def test_images_that_cannot_be_read_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training says so when it comes to them; here they must not stop a run that may never need them."""
    monkeypatch.setattr(sharpening, "_MOST", 5000)
    damaged = {17, 2048, 4999}

    class Damaged(Many):
        def reals(self, index: torch.Tensor, flip: torch.Tensor | None = None) -> torch.Tensor:
            if damaged & set(index.tolist()):
                raise UserError("is damaged")
            return super().reals(index)

    data = Damaged()
    ranks = rank_reals(data, 2)
    assert sorted(set(range(5000)) - set(data.looked.tolist())) == sorted(damaged)
    assert len(ranks.values) == 4997
    damaged.update(range(5000))
    with pytest.raises(UserError, match="is damaged"):
        rank_reals(data, 2)


def test_both_latents_of_a_mixture_share_what_is_settled() -> None:
    seen: list[torch.Tensor] = []

    def mapping(z: torch.Tensor, c: torch.Tensor, skip_w_avg_update: bool = False) -> torch.Tensor:
        seen.append(z)
        return z[:, None].expand(-1, 6, -1)

    G = SimpleNamespace(mapping=mapping, synthesis=lambda ws, rng: ws)
    for settled in (0, 2):
        rng = BatchRng(0)
        Objective(G, None, None, rng, style_mixing=1.0, settled=settled).generate(torch.randn(4, 8), torch.zeros(4, 3))  # type: ignore[arg-type]
        first, second = seen[-2:]
        assert torch.equal(first[:, :settled], second[:, :settled])
        assert not torch.isclose(first[:, settled:], second[:, settled:]).any()


def test_points_have_no_sharpness() -> None:
    info = DataInfo("points", 0, 0, 2, True)
    with pytest.raises(UserError, match="--sharpness: 2-D points have none"):
        resolve({"data": "x", "sharpness": True}, info, 1, "cpu", False)
    assert not resolve({"data": "x"}, info, 1, "cpu", False).sharpness
    images = DataInfo("images", 16, 1, 10, True)
    assert resolve({"data": "x"}, images, 1, "cpu", False).sharpness
    off = resolve({"data": "x", "sharpness": False}, images, 1, "cpu", False)
    assert off.D_kwargs["c_dim"] == off.G_kwargs["c_dim"]
    assert not resolve({"data": "x", "cond_msp": False, "cond": True}, images, 1, "cpu", False).sharpness
