"""The study: what it runs, what it skips, and what it says."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from stylegan2_msp.errors import UserError
from stylegan2_msp.metrics.results import Results
from stylegan2_msp.study import run as study_run
from stylegan2_msp.study.drawing import levels_figure
from stylegan2_msp.study.experiments import EXPERIMENTS
from stylegan2_msp.study.run import Study, choose
from stylegan2_msp.study.summary import summarise

ABOUT = {"uncertainty": "MSP", "items": 80, "device": "CPU", "torch": "2.13.0"}


def results(mae: float) -> Results:
    found = Results(dict(ABOUT))
    found.add("mae", mae, count=80, on="uniform")
    for level in (0.5, 1.0):
        found.add("mean", level - mae, count=40, on="uniform", level=level)
    return found


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Records commands instead of running them; `dataset` and `evaluate` leave the files that the real ones would."""
    seen: list[tuple[str, ...]] = []

    def call(*words: str) -> None:
        seen.append(words)
        if words[0] == "dataset":
            Path(words[-1]).write_text("")
        if words[0] == "evaluate":
            Path(words[-1]).mkdir(parents=True)
            Path(words[-1], "results.json").write_text(results(0.1 * len(seen)).to_json())

    monkeypatch.setattr(study_run, "_call", call)
    return seen


def study(folder: Path, name: str = "digits", **changes: object) -> Study:
    settings = {"seeds": (0, 1), "scale": 0.5, "source": None, "device": "cpu", "gpus": 2, **changes}
    return Study(EXPERIMENTS[name], folder, **settings)  # type: ignore[arg-type]


def test_every_variant_and_seed_is_trained_and_measured_once(tmp_path: Path, calls: list[tuple[str, ...]]) -> None:
    study(tmp_path).run()
    assert [words[0] for words in calls] == ["dataset"] + [
        *("train", "train", "evaluate", "evaluate"),  # class-only, plain, plain with latents drawn
        *("train", "evaluate", "evaluate", "evaluate"),  # ours, its level searched, latents drawn
        *("train", "evaluate", "evaluate"),  # ours, no term, latents drawn
    ] * 2
    assert calls[0][1:4] == ("digits", "--corrupt", "gaussian")
    baseline, plain = calls[1], calls[2]
    assert "--cond=1" in baseline
    assert "--cond-msp=1" not in baseline
    assert {"--consistency=0", "--flatten=0", "--embedding=linear", "--cond-msp=1", "--kimg=45", "--gpus=2"} <= set(
        plain
    )
    assert calls[3][calls[3].index("--baseline") + 1] == str(tmp_path / "class-only-seed0")
    assert calls[3][calls[3].index("--data") + 1] == str(tmp_path / "data-msp.zip")
    assert "--images=3000" in calls[3]  # as many as without --scale: FID and gaps depend on it
    drawn, ours, searched, ours_drawn = calls[4], *calls[6:9]
    assert drawn[drawn.index("--network") + 1] == str(tmp_path / "plain-seed0")
    for words, network in ((drawn, calls[3]), (ours_drawn, ours)):
        assert {"--within=0.05", "--draws=40"} <= set(words)
        assert words[words.index("--network") + 1] == network[network.index("--network") + 1]
    assert searched[searched.index("--network") + 1] == ours[ours.index("--network") + 1]
    assert "--within=0.03" in searched  # as `generate` does
    assert not [word for word in ours if word.startswith("--within")]
    assert searched[-1] != ours[-1]  # a folder of its own
    for words in calls[1:]:
        assert "--device=cpu" in words or words[words.index("--device") + 1] == "cpu"
    trained = [words for words in calls if words[0] == "train"]
    assert [next(word for word in words if word.startswith("--seed=")) for words in trained] == [
        *["--seed=0"] * 4,
        *["--seed=1"] * 4,
    ]
    for words in calls:
        if words[0] == "evaluate":  # each with the baseline of its own seed
            (network, baseline) = (words[words.index(option) + 1] for option in ("--network", "--baseline"))
            assert network.split("-seed")[1] == baseline.split("-seed")[1]
    before = len(calls)
    study(tmp_path).run()
    assert [words[0] for words in calls[before:]] == ["train", "train"]  # only the baselines leave no results


def test_what_evaluate_lacks_is_said_before_the_training(
    tmp_path: Path, calls: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(UserError, match="pip install torchmetrics"):
        study(tmp_path).run()
    assert calls == []


def test_a_training_that_was_cut_off_goes_on(tmp_path: Path, calls: list[tuple[str, ...]]) -> None:
    state = tmp_path / "ours-seed0" / "00000-x"
    state.mkdir(parents=True)
    (state / "training-state-000010.pt").write_text("")
    study(tmp_path, seeds=(0,)).run()
    (again,) = [words for words in calls if words[0] == "train" and "--resume" in words]
    assert again[again.index("--outdir") + 1] == str(tmp_path / "ours-seed0")
    assert "--kimg=45" in again


def test_photographs_are_annotated_by_a_classifier_of_their_own(tmp_path: Path, calls: list[tuple[str, ...]]) -> None:
    """Each measure anew, of the same images; and as many items are measured as were asked for."""
    chosen = choose(EXPERIMENTS["photographs"], ("plain",))
    chosen = replace(chosen, variants=(*chosen.variants, replace(chosen.variants[0], name="b", measure="entropy")))
    Study(chosen, tmp_path, (0,), 0.01, "pictures", None, 1, images=96).run()
    images, archive = str(tmp_path / "images.zip"), [str(tmp_path / f"data-{m}.zip") for m in ("msp", "entropy")]
    annotate = ("dataset", "annotate", "--data", images, "--classifier", "train", "--uncertainty")
    assert [words for words in calls if words[0] == "dataset"] == [
        ("dataset", "folder", "--source", "pictures", "--resolution", "32", "--dest", images),
        (*annotate, "msp", "--dest", archive[0]),
        (*annotate, "entropy", "--dest", archive[1]),
    ]
    for words in calls:
        if words[0] == "evaluate":
            assert "--images=96" in words


def test_measures_have_archives_of_their_own(tmp_path: Path, calls: list[tuple[str, ...]]) -> None:
    chosen = choose(EXPERIMENTS["ablation"], ("ours", "measure entropy"))
    Study(chosen, tmp_path, (0,), 0.01, "idx", None, 1).run()
    made = [words for words in calls if words[0] == "dataset"]
    assert [words[words.index("--uncertainty") + 1] for words in made] == ["msp", "entropy"]
    assert all(words[words.index("--source") + 1] == "idx" for words in made)


def test_more_variants_than_colours_are_drawn_in_panels(tmp_path: Path, calls: list[tuple[str, ...]]) -> None:
    for count, width in ((5, 975), (9, 1560)):  # one pair of axes, or four panels side by side
        names = tuple(variant.name for variant in EXPERIMENTS["ablation"].variants[:count])
        found = Study(choose(EXPERIMENTS["ablation"], names), tmp_path / str(count), (0,), 0.01, "idx", None, 1)
        with found.alone():
            found.run()
            summarise(found, 1.0)
        with Image.open(tmp_path / str(count) / "calibration.png") as picture:
            assert picture.width == width
        assert (tmp_path / str(count) / "comparison.png").is_file()


def test_mnist_without_a_folder_is_downloaded(tmp_path: Path, calls: list[tuple[str, ...]]) -> None:
    study(tmp_path, "mnistc", seeds=(0,)).run()
    assert "--source" not in calls[0]


def test_a_preset_is_that_of_every_training_and_of_the_folder(tmp_path: Path, calls: list[tuple[str, ...]]) -> None:
    """On a GPU `train` would take larger networks than those of the documented figures."""
    with study(tmp_path, cfg="tiny").alone():
        study(tmp_path, cfg="tiny").run()
    trained = [words for words in calls if words[0] == "train"]
    assert trained
    assert all("--cfg=tiny" in words for words in trained)
    for other in (None, "auto"):
        with pytest.raises(UserError, match="--cfg tiny"), study(tmp_path, cfg=other).alone():
            pass


def test_photographs_need_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--source"), study(tmp_path, "photographs").alone():
        pass


def test_two_at_once_in_one_folder_are_refused(tmp_path: Path) -> None:
    """The second says so and leaves everything as it is; a killed first one does not lock its folder for ever."""
    holds = (
        "import sys, time; from pathlib import Path; from stylegan2_msp.study.experiments import EXPERIMENTS;"
        "from stylegan2_msp.study.run import Study;"
        f"s = Study(EXPERIMENTS['digits'], Path({str(tmp_path)!r}), (0, 1), 0.5, None, 'cpu', 2)\n"
        "with s.alone(): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", holds], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "in\n"
        before = sorted(tmp_path.iterdir())
        words = ["reproduce", "digits", "--outdir", str(tmp_path), "--scale", "0.5"]
        second = subprocess.run(
            [sys.executable, "-m", "stylegan2_msp", *words], capture_output=True, text=True, check=False
        )
        assert second.returncode != 0
        assert len(second.stderr.strip().splitlines()) == 1
        assert "another `reproduce`" in second.stderr
        assert sorted(tmp_path.iterdir()) == before
        first.kill()
    with study(tmp_path).alone():
        pass


def test_a_file_system_without_locks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network file systems of clusters, for some."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(study_run.FileLock, "acquire", no_locks)
    with study(tmp_path).alone():
        assert (tmp_path / "begun.txt").is_file()


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"scale": 0.25}, r"--scale 0\.5, --images 3000', not as .* --scale 0\.25, --images 3000'"),
        ({"images": 500}, r"--images 3000', not as .* --images 500'"),
        ({"name": "moons"}, "not as .Moons"),
    ],
)
def test_a_folder_of_another_study_is_refused(tmp_path: Path, other: dict[str, object], what: str) -> None:
    with study(tmp_path).alone():
        pass
    with study(tmp_path, seeds=(0, 1, 2)).alone():  # more seeds go on
        pass
    with pytest.raises(UserError, match=what), study(tmp_path, **other).alone():  # type: ignore[arg-type]
        pass


def test_a_variant_that_measures_another_brings_it_along() -> None:
    chosen = choose(EXPERIMENTS["moons"], ("ours, level searched",))
    assert [variant.name for variant in chosen.variants] == ["ours", "ours, level searched"]


def test_unknown_variant() -> None:
    with pytest.raises(UserError, match="--variant 'best': must be one of 'class-only', 'plain', 'plain, latents"):
        choose(EXPERIMENTS["digits"], ("best",))


def test_the_table_has_means_and_deviations(tmp_path: Path) -> None:
    s = study(tmp_path, seeds=(0, 1))
    for seed, mae in ((0, 0.1), (1, 0.2)):
        path = s.results(EXPERIMENTS["digits"].variants[1], seed)
        path.parent.mkdir(parents=True)
        path.write_text(results(mae).to_json())
    files = summarise(s, 90.0)
    table = files[0].read_text(encoding="utf-8")
    assert "| plain | 0, 1 | 0.150 ± 0.071 |" in table
    assert "ours" not in table.split("| variant")[1]
    assert json.loads(files[1].read_text())["rows"]["plain"]["uniform MAE"] == [0.1, 0.2]
    assert files[2].stat().st_size > 10_000


def test_the_largest_gap_is_of_levels_that_have_reals_enough(tmp_path: Path) -> None:
    """Seven reals at MSP .3 would decide a whole study's gap; a level without reals has none."""
    s = study(tmp_path, seeds=(0,), images=100)
    found = results(0.1)
    for level, fakes, reals, count in ((0.3, 0.9, 0.1, 7), (0.6, 0.7, 0.5, 20), (1.0, 1.0, 0.9, 900)):
        found.add("class_agreement", fakes, count=100, on="matched", level=level)
        found.add("class_agreement", reals, count=count, of="reals", on="matched", level=level)
    found.add("class_agreement", 0.2, count=100, on="matched", level=0.4)
    path = s.results(EXPERIMENTS["digits"].variants[1], 0)
    path.parent.mkdir(parents=True)
    path.write_text(found.to_json())
    files = summarise(s, 1.0)
    gaps = json.loads(files[1].read_text())["rows"]["plain"]["largest gap at a level"]
    assert gaps == [pytest.approx(0.2)]
    assert "at which 20 or more reals lie" in files[0].read_text(encoding="utf-8")


@pytest.mark.slow
def test_moons_from_nothing_and_again(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stylegan2_msp", "reproduce", "moons", "--outdir", str(tmp_path / "study")]
    command += ["--seeds", "1", "--scale", "0.004", "--images", "80", "--variant", "plain", "--device", "cpu"]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "| plain | 0 |" in first.stdout
    assert "$ stylegan2-msp train" in first.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert "$ stylegan2-msp" not in again.stdout


def test_the_grey_curve_stands_beside_those_of_its_measure_only():
    """Levels of the margin run from .3 to 1 as those of MSP do, but are others."""
    curve = [[(0.3, 0.5), (1.0, 0.9)]]
    measures = {"plain": "MSP", "ours": "MSP", "measure margin": "margin"} | {f"part {k}": "MSP" for k in range(4)}
    figure = levels_figure(dict.fromkeys(measures, curve), measures)
    assert [len(axes.get_lines()) for axes in figure.axes[:3]] == [3, 3, 2]  # grey, its own, out = in


def test_where_ctrl_c_reaches_all_the_training_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows `Popen.send_signal` knows no SIGINT, and SIGTERM would end the training before it saves."""

    class Training:
        def wait(self) -> int:
            signal.raise_signal(signal.SIGINT)
            return 130

        def send_signal(self, signum: int) -> None:
            raise ValueError(f"Unsupported signal: {signum}")

    monkeypatch.setattr("stylegan2_msp.study.run.REACHES_ALL", True)
    monkeypatch.setattr("stylegan2_msp.study.run.subprocess.Popen", lambda words: Training())
    with pytest.raises(KeyboardInterrupt):
        study_run._call("train")
