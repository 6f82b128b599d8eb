"""Figures hold what they were given; pictures are laid out as they say."""

from __future__ import annotations

import threading
import warnings
from contextlib import suppress

import matplotlib
import numpy as np
import pytest
from matplotlib.font_manager import fontManager
from PIL import Image

from stylegan2_msp.errors import UserError
from stylegan2_msp.report.curves import fig2b_levels, fig4_in_out, training_curves
from stylegan2_msp.report.generated import Plan, file_name, level_label, level_text
from stylegan2_msp.report.grids import Caption, class_labels, fig3_grid, short_names, spread
from stylegan2_msp.report.points import fig2a_points
from stylegan2_msp.report.style import _say_boxes, font_families, new_figure, save_figure

RNG = np.random.default_rng(0)
U = np.repeat(np.linspace(0.3, 1, 8), 50)
V = np.clip(U + RNG.normal(0, 0.05, U.size), 0.1, 1)


def texts(figure):
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def test_fig4_draws_the_mean_of_every_level_and_the_diagonal():
    axes = fig4_in_out(U, V).axes[0]
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    assert lines["mean"][:, 0] == pytest.approx(np.linspace(0.3, 1, 8))
    assert lines["mean"][:, 1] == pytest.approx(V.reshape(8, 50).mean(axis=1))
    assert np.allclose(lines["out = in"][:, 0], lines["out = in"][:, 1])
    assert len(axes.collections[0].get_offsets()) == U.size
    assert "MSP" in axes.get_xlabel()
    assert "MSP" in axes.get_ylabel()


def test_fig4_bins_continuous_input():
    u = RNG.uniform(0.5, 1, 1000)
    mean = next(line for line in fig4_in_out(u, u - 0.1).axes[0].lines if line.get_label() == "mean").get_xydata()
    assert len(mean) == 10
    assert mean[:, 0] - mean[:, 1] == pytest.approx(0.1, abs=1e-5)


def test_fig2b_has_a_box_per_level():
    axes = fig2b_levels(U, V).axes[0]
    medians = [line.get_ydata()[0] for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 2.4]
    assert medians == pytest.approx(np.median(V.reshape(8, 50), axis=1))


def test_fig2b_shows_the_outer_boxes_whole():
    axes = fig2b_levels(U, V + 0.2).axes[0]
    boxes = [patch.get_path().vertices[:, 0] for patch in axes.patches]
    assert axes.get_xlim()[0] < min(x.min() for x in boxes)
    assert max(x.max() for x in boxes) < axes.get_xlim()[1]


def test_training_curves_have_room_for_their_lowest_markers():
    records = [{"kimg": k, "condition/natural_spearman": s} for k, s in ((10, -0.4), (20, 0.5))]
    axes = training_curves([*records, {"kimg": 30, "condition/natural_class_agreement": 0.0}]).axes
    half_marker = 2 / 72 / 4.4  # of the figure's height
    for panel, lowest in ((axes[0], -0.4), (axes[2], 0.0)):
        low, high = panel.get_ylim()
        assert lowest - low > half_marker * (high - low)


def test_training_curves_skip_ticks_without_a_figure():
    records = [
        {"kimg": 10, "condition/natural_mae": 0.2, "condition/uniform_mae": 0.3, "condition/natural_spearman": None},
        {"kimg": 20, "condition/natural_mae": 0.1, "condition/uniform_mae": 0.2, "condition/natural_spearman": 0.5},
        {"kimg": 30, "condition/natural_diversity": 0.4},
    ]
    spearman, mae, _, variety = training_curves(records).axes
    assert variety.lines[0].get_xydata().tolist() == [[30, 0.4]]
    assert spearman.lines[0].get_xydata().tolist() == [[20, 0.5]]
    assert mae.lines[0].get_xydata().tolist() == [[10, 0.2], [20, 0.1]]
    assert mae.get_ylim()[1] > 0.3
    assert "thousand" in mae.get_xlabel()


def test_fig2a_shows_both_sides_with_the_same_axes():
    xy, fake = RNG.normal(size=(50, 2)), RNG.normal(size=(40, 2)) * 3
    classes = np.arange(50) % 2
    figure = fig2a_points((xy, classes, np.full(50, 0.9)), (fake, classes[:40], np.full(40, 0.6)), ["up", "low"])
    left, right = figure.axes[:2]
    assert sum(len(c.get_offsets()) for c in left.collections) == 50
    assert sum(len(c.get_offsets()) for c in right.collections) == 40
    assert left.get_xlim() == right.get_xlim()
    assert {"class up", "class low", "MSP"} <= set(texts(figure))


def test_fig3_places_every_image_with_its_caption(tmp_path):
    levels = {(r, c): np.full((1, 8, 8), 40 * (3 * r + c) + 20, np.uint8) for r in range(2) for c in range(3)}
    captions = {(0, 0): Caption("3", 0.98), (1, 2): Caption("5", 0.412, agrees=False)}
    figure = fig3_grid(levels, ["MSP 1.0", "MSP 0.7"], ["seed 0", "seed 1", "seed 2"], captions, note="a note")
    assert {"3: 0.98", "5: 0.41", "MSP 0.7", "seed 2", "a note"} <= set(texts(figure))
    assert {t.get_text(): t.get_fontweight() for t in figure.axes[0].texts}["5: 0.41"] == "bold"
    save_figure(figure, tmp_path / "g.png")
    picture = np.asarray(Image.open(tmp_path / "g.png").convert("L"))
    centres = [[], []]
    for (r, _), image in zip(levels, figure.axes[0].images, strict=True):
        left, right, bottom, top = image.get_extent()
        x, y = figure.axes[0].transData.transform(((left + right) / 2, (bottom + top) / 2))
        centres[r].append(int(picture[picture.shape[0] - 1 - round(y), round(x)]))
    assert centres == [[20, 60, 100], [140, 180, 220]]


def test_long_names_go_on_two_lines_that_tell_them_apart():
    assert short_names(
        ["cat", "nine char", "Größere Sterne", "Größere Kreise", "wolverine-like", "automobile", "hummingbirds"]
    ) == [
        "cat",
        "nine char",
        "Größere\nSterne",
        "Größere\nKreise",
        "wolverine-\nlike",
        "automobile",
        "hummin-\ngbirds",
    ]
    poodles = ["n02113712 miniature poodle", "n02113799 standard poodle"]
    assert short_names(poodles) == ["n02113712\n…poodle", "n02113799\n…poodle"]
    alike = [f"a photograph of {k} of the animals" for k in "abc"]
    assert short_names([*alike, "cat"]) == ["a photogra\n… (0)", "a photogra\n… (1)", "a photogra\n… (2)", "cat"]
    assert class_labels(["3", "Größere Sterne"]) == ["class 3", "Größere\nSterne"]
    assert class_labels(["9", "99", "100", "c9", "c99"]) == ["class 9", "class 99", "class 100", "c9", "c99"]


def test_names_above_images_do_not_reach_the_row_above():
    names = short_names(["Größere Sterne", "cat"])
    captions = {(r, c): Caption(names[c], 0.5) for r in range(2) for c in range(2)}
    images = dict.fromkeys(captions, np.zeros((3, 8, 8), np.uint8))
    figure = fig3_grid(images, ["MSP 1.0", "MSP 0.7"], ["a", "b"], captions)
    figure.canvas.draw()
    above = {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}["Größere\nSterne\n0.50"]
    first = figure.axes[0].images[0].get_window_extent()
    assert above.y1 < first.y0


def test_letters_that_no_font_has_are_said_once(tmp_path, capsys):
    _say_boxes.cache_clear()
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        for name in "ab":
            figure = new_figure(2, 2)
            figure.suptitle("\U00013000")  # a hieroglyph
            save_figure(figure, tmp_path / f"{name}.png")
    said = capsys.readouterr().err
    assert not given
    assert said.count("\n") == 1
    assert "no font here has" in said


def test_other_warnings_of_figures_are_still_given(tmp_path, monkeypatch):
    figure = new_figure(2, 2)
    monkeypatch.setattr(figure, "savefig", lambda *a, **k: warnings.warn("something else", stacklevel=1))
    with pytest.warns(UserWarning, match="something else"), suppress(FileNotFoundError):
        save_figure(figure, tmp_path / "a.png")


def test_fonts_for_other_scripts_are_used_where_they_are_installed(monkeypatch):
    installed = ["Noto Sans Thai", "DejaVu Sans", "Comic Neue", "Noto Sans CJK JP"]
    monkeypatch.setattr(fontManager, "get_font_names", lambda: installed)
    assert font_families() == ["DejaVu Sans", "Noto Sans CJK JP", "Noto Sans Thai"]


def test_spread_keeps_first_and_last():
    assert spread(5, 12) == [0, 1, 2, 3, 4]
    chosen = spread(100, 12)
    assert (len(chosen), chosen[0], chosen[-1]) == (12, 0, 99)
    assert chosen == sorted(set(chosen))


def test_a_grid_keeps_whole_seeds_and_at_most_20_columns():
    pairs = [(seed, cls) for seed in range(4) for cls in range(7)]
    plan = Plan(pairs, [i / 20 for i in range(1, 21)])
    shown, rows = plan.shown
    assert shown == pairs[:14]
    assert (len(rows), rows[0], rows[-1]) == (12, 0.05, 1.0)
    assert len(plan.requests) == 560
    assert len(Plan([(s, s % 10) for s in range(100)], [1.0]).shown[0]) == 20
    assert len(Plan([(0, k) for k in range(100)], [1.0]).shown[0]) == 20


def test_names_tell_apart_all_that_can_be_asked():
    request = Plan([(5, 3)], [0.7]).requests[0]
    assert file_name(request, 10) == "class3-msp0.70-seed0005.png"
    assert file_name(request, 101) == "class003-msp0.70-seed0005.png"
    assert [level_text(u) for u in (1.0, 0.7, 0.416667, 0.123)] == ["1.00", "0.70", "0.416667", "0.123"]
    assert [level_label(u) for u in (1.0, 0.7, 0.65)] == ["MSP 1.0", "MSP 0.7", "MSP 0.65"]


def test_figures_are_alike_each_time_and_leave_no_global_style(tmp_path):
    before = dict(matplotlib.rcParams)
    for name in "ab":
        save_figure(fig4_in_out(U, V), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert dict(matplotlib.rcParams) == before


def test_figures_need_no_main_thread(tmp_path):
    worker = threading.Thread(target=lambda: save_figure(new_figure(2, 2), tmp_path / "t.png"))
    worker.start()
    worker.join()
    assert (tmp_path / "t.png").stat().st_size > 0


def test_unknown_figure_format(tmp_path):
    with pytest.raises(UserError, match=r"\.png"):
        save_figure(new_figure(2, 2), tmp_path / "figure.bmp")
    assert not list(tmp_path.iterdir())
