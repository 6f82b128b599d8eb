"""FID and the like against closed forms, and against their formulas written out slowly."""

from __future__ import annotations

import builtins
import math

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

from stylegan2_msp.errors import UserError
from stylegan2_msp.metrics import quality as q

pytest.importorskip("torchmetrics")
RNG = np.random.default_rng(0)


def sample(n, d=4, shift=0.0, scale=1.0):
    return (RNG.normal(size=(n, d)) * scale + shift).astype(np.float32)


def test_frechet_distance_of_equal_sets_is_0():
    x = sample(200)
    assert q.frechet_distance(x, x.copy()) == pytest.approx(0, abs=1e-6)
    assert math.isnan(q.frechet_distance(x, x[:1]))


def test_frechet_distance_of_gaussians_is_the_closed_form():
    mean, spread = np.array([1.0, -2.0, 0.5]), np.array([0.5, 2.0, 1.0])
    x = RNG.normal(size=(60_000, 3)).astype(np.float32)
    y = (RNG.normal(size=(60_000, 3)) * spread + mean).astype(np.float32)
    assert q.frechet_distance(x, y) == pytest.approx((mean**2).sum() + ((1 - spread) ** 2).sum(), rel=0.02)


def test_frechet_distance_is_the_formula():
    x, y = sample(50), sample(70, shift=0.3) @ RNG.normal(size=(4, 4)).astype(np.float32)
    a, b = np.cov(x.astype(float), rowvar=False), np.cov(y.astype(float), rowvar=False)
    root = sqrtm(a @ b).real
    expected = ((x.astype(float).mean(0) - y.astype(float).mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    assert q.frechet_distance(x, y) == pytest.approx(expected, rel=1e-5)


def test_kernel_distance_is_the_unbiased_formula_block_by_block():
    x, y = sample(21), sample(20, shift=0.5)

    def kernel(a, b):
        return (float(a @ b) / 4 + 1) ** 3

    def unbiased(x, y):
        m = len(x)
        xx = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
        yy = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
        return xx + yy - 2 * sum(kernel(a, b) for a in x for b in y) / m**2

    expected = [unbiased(x[i : i + 5], y[i : i + 5]) for i in (0, 5, 10, 15)]
    assert q.kernel_distances(x, y, blocks=4) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert len(q.kernel_distances(x[:7], y, blocks=4)) == 0


def test_kernel_distance_of_the_same_distribution_averages_to_0():
    values = q.kernel_distances(sample(4000), sample(4000), blocks=40)
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(40)


def literal_neighbourhoods(real, fake, k):
    """Precision, recall, density and coverage as Kynkaanniemi 2019 and Naeem 2020 write them."""
    rr, ff, rf = cdist(real, real), cdist(fake, fake), cdist(real, fake)
    reach_r = [sorted(np.delete(row, i))[k - 1] for i, row in enumerate(rr)]
    reach_f = [sorted(np.delete(row, i))[k - 1] for i, row in enumerate(ff)]
    R, F = len(real), len(fake)
    precision = [any(rf[j, i] <= reach_r[j] for j in range(R)) for i in range(F)]
    recall = [any(rf[j, i] <= reach_f[i] for i in range(F)) for j in range(R)]
    density = [sum(rf[j, i] <= reach_r[j] for j in range(R)) / k for i in range(F)]
    coverage = [any(rf[j, i] <= reach_r[j] for i in range(F)) for j in range(R)]
    return {"precision": precision, "recall": recall, "density": density, "coverage": coverage}


@pytest.mark.parametrize(("reals", "fakes", "k"), [(40, 50, 5), (60, 30, 3), (9, 9, 1)])
def test_neighbourhoods_are_the_literal_formulas(reals, fakes, k, monkeypatch):
    monkeypatch.setattr(q, "_ROWS_AT_ONCE", 7)
    x, y = sample(reals), sample(fakes, shift=0.7)
    found = vars(q.neighbourhoods(x, y, k))
    for name, terms in literal_neighbourhoods(x.astype(float), y.astype(float), k).items():
        assert found[name] == pytest.approx(np.array(terms, float)), name


def test_neighbourhoods_of_copies_of_a_distant_cloud_and_of_a_collapse():
    x = sample(100)
    assert [v.mean() for v in vars(q.neighbourhoods(x, x.copy())).values()] == pytest.approx([1, 1, 1.2, 1], abs=0.35)
    assert [v.mean() for v in vars(q.neighbourhoods(x, x + 100)).values()] == [0, 0, 0, 0]
    one = np.repeat(x.mean(0, keepdims=True), 100, axis=0) + 1e-4 * sample(100)
    found = q.neighbourhoods(x, one)
    assert found.precision.mean() == 1
    assert found.recall.mean() < 0.1
    assert q.neighbourhoods(x[:4], x).precision.size == 0


def test_diversity_is_the_mean_distance_within_classes():
    x, classes = sample(12), np.array([0] * 5 + [1] * 6 + [2])
    means = []
    for rows in (range(5), range(5, 11)):
        means.append(np.mean([np.linalg.norm(x[i] - x[j]) for i in rows for j in rows if i != j]))
    assert q.diversity(x, classes) == pytest.approx((5 * means[0] + 6 * means[1]) / 11, rel=1e-5)
    assert math.isnan(q.diversity(x[:1], classes[:1]))


def test_energy_distance_is_the_formula_and_0_for_equal_sets():
    x, y = sample(30, 2), sample(20, 2, shift=1.0)
    between = np.mean([np.linalg.norm(a - b) for a in x for b in y])
    own = [np.mean([np.linalg.norm(a - b) for a in z for b in z]) for z in (x, y)]
    assert q.energy_distance(x, y) == pytest.approx(2 * between - sum(own), rel=1e-6)
    assert q.energy_distance(x, x.copy()) == pytest.approx(0, abs=1e-9)


def test_a_better_sample_has_better_figures_with_intervals_around_them():
    x = sample(500)
    near, spread = q.quality(x, sample(500), np.zeros(500))
    far, _ = q.quality(x, sample(500, shift=1.0, scale=0.5), np.zeros(500))
    assert near["fid"] < far["fid"]
    assert near["kid"] < far["kid"]
    assert near["recall"] > far["recall"]
    assert near["coverage"] > far["coverage"]
    assert near["diversity"] > far["diversity"]
    for name in ("fid", "kid", "precision", "recall", "density", "coverage"):
        low, high = spread[name]
        assert low <= near[name] <= high, name


def test_intervals_of_fid_and_kid_by_their_formulas():
    """FID: each tenth of both sides is left out once (Tukey 1958); KID: Student's t of its ten blocks."""
    x, y = sample(60, 3), sample(60, 3, shift=0.4)
    values, spread = q.quality(x, y, np.zeros(60))
    left_out = [np.arange(60) % 10 != b for b in range(10)]
    fids = np.array([q.frechet_distance(x[kept], y[kept]) for kept in left_out])
    error = math.sqrt(0.9 * ((fids - fids.mean()) ** 2).sum())
    reach = 2.262157 * error  # 97.5 % quantile of Student's t with 9 degrees of freedom
    assert spread["fid"] == pytest.approx((values["fid"] - reach, values["fid"] + reach), rel=1e-5)
    kids = q.kernel_distances(x, y)
    reach = 2.262157 * math.sqrt(((kids - kids.mean()) ** 2).sum() / 9 / 10)
    assert spread["kid"] == pytest.approx((kids.mean() - reach, kids.mean() + reach), rel=1e-5)


def test_without_torchmetrics_the_message_names_the_extra(monkeypatch):
    real_import = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("torchmetrics"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match="pip install torchmetrics"):
        q.check_torchmetrics()


def test_a_torchvision_of_another_torch_is_one_line(monkeypatch):
    real_import = builtins.__import__

    def broken(name, *args, **kwargs):
        if name.startswith("torchmetrics"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(UserError, match=r"^FID .*torchvision::nms does not exist\); install the torchvision that fits"):
        q.check_torchmetrics()


def test_neighbours_and_distances_do_not_depend_on_where_the_features_lie():
    """They lie on a lattice, so that moving them loses nothing."""
    x, y = (np.round(sample(300, 6) * 64) / 64 for _ in range(2))
    far = np.float32(8192)
    for name, terms in vars(q.neighbourhoods(x, y)).items():
        assert getattr(q.neighbourhoods(x + far, y + far), name) == pytest.approx(terms), name
    assert q.diversity(x + far, np.zeros(300)) == pytest.approx(q.diversity(x, np.zeros(300)), rel=1e-5)


def test_neighbourhoods_of_features_of_two_dtypes():
    x, y = sample(60), sample(60, shift=0.5)
    assert vars(q.neighbourhoods(x.astype(np.float64), y))["recall"] == pytest.approx(q.neighbourhoods(x, y).recall)
