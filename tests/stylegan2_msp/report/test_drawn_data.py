"""What the figures draw, read back from them: which way round, which quantiles, what lies on top."""

from __future__ import annotations

import numpy as np
import pytest

from stylegan2_msp.report.curves import fig2b_levels, fig4_in_out
from stylegan2_msp.report.points import points_panels
from stylegan2_msp.report.style import MSP_MAP
from stylegan2_msp.uncertainty import Entropy, Msp

RNG = np.random.default_rng(0)
U = np.repeat([0.4, 0.7, 1.0], 200)
V = np.concatenate([RNG.uniform(0.3, 0.6, 200), RNG.uniform(0.5, 0.8, 200), RNG.beta(8, 1, 200)])


def test_fig4_has_the_level_asked_for_along_x_and_the_answer_along_y_with_its_mean_and_10_to_90_per_cent() -> None:
    axes = fig4_in_out(U, V).axes[0]
    dots, band = axes.collections[:2]
    x, y = np.asarray(dots.get_offsets()).T
    assert np.abs(x - U).max() <= 0.0121
    np.testing.assert_allclose(y, V)
    corners = band.get_paths()[0].vertices
    mean = next(line for line in axes.lines if line.get_label() == "mean")
    for level, average in zip(*mean.get_data(), strict=True):
        own = V[np.isclose(U, level)]
        assert average == pytest.approx(own.mean())
        edges = corners[np.isclose(corners[:, 0], level), 1]
        assert (edges.min(), edges.max()) == pytest.approx(tuple(np.quantile(own, [0.1, 0.9])))


def test_fig4_leaves_out_bins_of_fewer_than_five() -> None:
    u = np.concatenate([RNG.uniform(0.8, 1.0, 300), [0.31, 0.32, 0.33, 0.34]])
    axes = fig4_in_out(u, u / 2).axes[0]
    levels = next(line for line in axes.lines if line.get_label() == "mean").get_xdata()
    assert min(levels) > 0.75


def test_fig2b_boxes_hold_the_answers_of_their_level_and_whiskers_reach_5_and_95_per_cent() -> None:
    axes = fig2b_levels(U, V).axes[0]
    ends = [line.get_xydata() for line in axes.lines if len(line.get_xdata()) == 2]
    for level in (0.4, 0.7, 1.0):
        own = np.sort(V[level == U])
        low, high = np.quantile(own, [0.05, 0.95])
        whiskers = np.concatenate([xy[:, 1] for xy in ends if np.allclose(xy[:, 0], level)])
        assert whiskers.min() == pytest.approx(own[own >= low].min())
        assert whiskers.max() == pytest.approx(own[own <= high].max())


@pytest.mark.parametrize("measure", [Msp(), Entropy()])
def test_points_have_the_colour_of_their_certainty_and_unsure_ones_lie_on_top(measure: Msp | Entropy) -> None:
    xy, u = RNG.normal(size=(50, 2)), RNG.uniform(0.5, 1, 50)
    (dots,) = points_panels([("", xy, np.zeros(50, int), u)], ["a", "b"], measure).axes[0].collections
    certain = u if measure.certain == "high" else -u
    order = np.argsort(-certain)
    np.testing.assert_allclose(np.asarray(dots.get_offsets()), xy[order])
    low, high = measure.low(2), measure.high(2)
    share = (u[order] - low) / (high - low)
    expected = MSP_MAP(share if measure.certain == "high" else 1 - share)
    np.testing.assert_allclose(dots.get_facecolors()[:, :3], expected[:, :3], atol=0.02)
