"""The reliability diagram shows the bins that the figures hold."""

from __future__ import annotations

import numpy as np
import pytest

from stylegan2_msp.metrics.calibration import calibration_figures
from stylegan2_msp.report.reliability import reliability_diagram
from stylegan2_msp.report.style import save_figure


def test_bars_are_the_accuracy_and_the_share_of_each_bin(tmp_path):
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], 300)
    classes = rng.integers(0, 3, 300)
    panels = {
        "before": calibration_figures(p, classes),
        "after": calibration_figures(p**2 / (p**2).sum(1)[:, None], classes),
    }
    figure = reliability_diagram(panels, "Recalibration: temperature")
    for column, name in enumerate(panels):
        bars, shares = figure.axes[column], figure.axes[2 + column]
        bins = panels[name]["bins"]
        assert [b.get_height() for b in bars.patches] == [row["accuracy"] for row in bins]
        assert [b.get_x() for b in bars.patches] == [row["low"] for row in bins]
        assert sum(b.get_height() for b in shares.patches) == pytest.approx(1)
        lines = {round(s[0, 0], 9): s[:, 1] for s in bars.collections[0].get_segments()}
        reach = [np.ptp(lines[round(row["confidence"], 9)]) for row in bins]
        fewest, most = (pick(range(len(bins)), key=lambda i: bins[i]["count"]) for pick in (min, max))
        assert reach[fewest] > 2 * reach[most] > 0
        assert not bars.lines[-1].get_clip_on()  # dots on the frame stay whole
        assert f"ECE {panels[name]['ece']:.3f}" in bars.get_title()
    figure.canvas.draw()
    assert figure.legends[0].get_window_extent().y1 < figure.axes[2].get_tightbbox().y0  # hides no bar
    save_figure(figure, tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").stat().st_size > 5000
