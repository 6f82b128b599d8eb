"""Whole runs, in real processes where it matters: resuming, signals, kill -9, two processes, torchrun."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from filelock import FileLock
from whole_runs import SMALL, assert_same, final_state, losses, only_run

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.data.archive import open_archive, write_archive
from stylegan2_msp.errors import UserError
from stylegan2_msp.generation import load_generator
from stylegan2_msp.presets import PRESETS
from stylegan2_msp.snapshot import load_snapshot
from stylegan2_msp.training.checkpoint import list_states, load_state, save_state
from stylegan2_msp.training.launch import start
from stylegan2_msp.training.plan import Machine, prepare
from stylegan2_msp.uncertainty import Softmax

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "scripts" / "train.py"
CPU = Machine(device="cpu")
EVERYTHING = {
    "consistency_uniform": 1.0,
    "consistency_class": 1.0,
    "consistency_augment": 0.5,
    "consistency_ramp": 0.04,
    "label_noise": "auto",
    "vicinal": 0.05,
    "diversity": 4.0,
}


def options(data, **more):
    return {"data": str(data), **SMALL, **more}


def command(data, outdir, **more):
    chosen = {**options(data, **more), "outdir": outdir, "device": "cpu"}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items() if value is not None]
    return [sys.executable, str(SCRIPT), *words]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def test_a_run_leaves_what_the_field_expects(digits_archive, tmp_path, capsys):
    assert start(options(digits_archive, metrics="condition"), tmp_path, None, CPU) == 0
    run = only_run(tmp_path)
    names = {p.name for p in run.iterdir()}
    assert {"training_options.json", "log.txt", "stats.jsonl", "reals.png", "fakes000000.png"} <= names
    assert "network-snapshot-000000.safetensors" in names
    snapshot = load_snapshot(run / "network-snapshot-000000.safetensors")
    assert snapshot.info["num_classes"] == 10
    assert snapshot.info["uncertainty"] == "msp"
    archive = open_archive(digits_archive)
    cells, right = (archive.levels() * 20).astype(int), archive.named_right()
    surest = cells == cells.max()
    own = right[surest & (archive.classes == 3)]
    reals = (own.sum() + 5 * right[surest].mean()) / (len(own) + 5)
    agreement = load_generator(snapshot.path).agreement
    assert agreement(torch.tensor([1.0]), torch.tensor([3])).item() == pytest.approx(reals)
    assert snapshot.classifier is not None
    rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert [row["kimg"] for row in rows] == [0.032, 0.064, 0.096]
    assert {
        "condition/natural_mae",
        "condition/natural_diversity",
        "condition/uniform_mae",
        "loss/G",
        "loss/D",
        "loss/r1_penalty",
    } <= rows[0].keys()
    explained = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert [name for name in rows[-1] if "/" in name and f"`{name}`" not in explained] == []
    assert "tick 3" in capsys.readouterr().out
    state = load_state(list_states(run)[-1])[1]
    for name, value in snapshot.G.state_dict().items():
        assert torch.equal(value, state["G_ema"][name])


@pytest.mark.parametrize(
    ("more", "metrics"),
    [({}, "condition"), ({"pl_weight": 2.0, "mix": 0.9}, "none")],
    ids=["tiny", "path-length-and-mixing"],
)
def test_resuming_is_exact_to_the_bit(digits_archive, tmp_path, monkeypatch, more, metrics):
    monkeypatch.setitem(PRESETS, "tiny", replace(PRESETS["tiny"], **more))
    full, half = (options(digits_archive, metrics=metrics) for _ in range(2))
    half["kimg"] = full["kimg"] / 3
    assert start(full, tmp_path / "whole", None, CPU) == 0
    assert start(half, tmp_path / "parts", None, CPU) == 0
    for _ in range(2):
        half["kimg"] += full["kimg"] / 3
        assert start({"kimg": half["kimg"]}, tmp_path / "parts", "auto", CPU) == 0
    whole, parts = only_run(tmp_path / "whole"), only_run(tmp_path / "parts")
    assert_same(final_state(parts), final_state(whole))
    assert losses(parts) == losses(whole)


def test_strengths_of_noise_start_at_a_tenth_and_learn_a_hundred_times_more_slowly(digits_archive, tmp_path):
    """Adam's first step is the learning rate, whatever the gradient."""
    assert start(options(digits_archive, kimg=SMALL["batch"] / 1000), tmp_path, None, CPU) == 0
    G = load_state(list_states(only_run(tmp_path))[-1])[1]["G"]
    strengths = {name: float(value) for name, value in G.items() if name.endswith("noise_strength")}
    assert abs(strengths.pop("synthesis.b16.conv1.noise_strength") - 0.1) == pytest.approx(0.0025 * 0.01, rel=0.01)
    assert [abs(value) for value in strengths.values()] == pytest.approx([0.0025 * 0.01] * 4, rel=0.01)
    assert float(G["synthesis.b16.conv1.bias"].abs().max()) == pytest.approx(0.0025, rel=0.01)


@pytest.mark.parametrize("embedding", ["learned", "film"])
def test_resuming_is_exact_with_every_option_of_the_condition(digits_archive, tmp_path, embedding):
    full = options(digits_archive, **EVERYTHING, embedding=embedding)
    assert start(full, tmp_path / "whole", None, CPU) == 0
    assert start({**full, "kimg": 0.064}, tmp_path / "parts", None, CPU) == 0
    assert start({"kimg": 0.096}, tmp_path / "parts", "auto", CPU) == 0
    whole, parts = only_run(tmp_path / "whole"), only_run(tmp_path / "parts")
    assert_same(final_state(parts), final_state(whole))
    assert losses(parts) == losses(whole)
    assert {"loss/consistency_uniform", "loss/class", "loss/diversity"} <= losses(whole)[-1].keys()


def test_weights_of_zero_change_nothing(digits_archive, tmp_path):
    """Not a random number more or less than in a run that never asks the classifier."""
    zero = {"consistency_uniform": 0.0, "consistency_class": 0.0, "label_noise": 0.0, "vicinal": 0.0, "diversity": 0.0}
    assert start(options(digits_archive, consistency=0.0, **zero), tmp_path / "zero", None, CPU) == 0
    late = {**EVERYTHING, "label_noise": None, "vicinal": None, "diversity": 0.0, "consistency_kimg": 10.0}
    assert start({**options(digits_archive), **late}, tmp_path / "late", None, CPU) == 0
    one, other = final_state(only_run(tmp_path / "zero")), final_state(only_run(tmp_path / "late"))
    assert_same(one, other)


def test_states_from_before_these_options_still_load(digits_archive, tmp_path):
    start(options(digits_archive, kimg=0.032), tmp_path, None, CPU)
    (path,) = list_states(only_run(tmp_path))
    content = torch.load(path, weights_only=True)
    config = json.loads(content["config"])
    for name in (*EVERYTHING, "consistency_share"):
        del config[name]
    torch.save({**content, "config": json.dumps(config)}, path)
    loaded = load_state(path)[0]
    assert {getattr(loaded, name) for name in EVERYTHING} == {0.0}  # what that run was trained without
    assert loaded.consistency_share == 0.5
    assert start({"kimg": 0.064}, tmp_path, "auto", CPU) == 0


@pytest.mark.parametrize("embedding", ["linear", "split", "learned", "film"])
def test_softmax_vectors_as_the_condition(moons_archive, tmp_path, embedding):
    moons = open_archive(moons_archive).load()
    classifier = FrozenClassifier.from_bytes(moons.annotation.classifier_bytes)
    with torch.no_grad():
        measure = Softmax().fitted(classifier(torch.from_numpy(moons.data)), torch.from_numpy(moons.classes))
    classifier = classifier.with_measure(measure)
    vectors = replace(
        moons.annotation,
        u=moons.annotation.probs,
        classifier_bytes=classifier.to_bytes(),
        uncertainty="softmax",
    )
    data = write_archive(tmp_path / "p.zip", replace(moons, annotation=vectors), progress=False)
    chosen = {"data": str(data), "batch": 64, "kimg": 0.64, "tick": 0.64, "consistency_kimg": 0.1}
    more = {"consistency_uniform": 1.0, "label_noise": 0.05, "embedding": embedding}
    assert start({**chosen, **more}, tmp_path / "runs", None, CPU) == 0
    G = load_snapshot(next(only_run(tmp_path / "runs").glob("*.safetensors"))).G
    assert G.c_dim == 4
    with pytest.raises(UserError, match="--consistency-class: softmax vectors say"):
        start({**chosen, "consistency_class": 1.0}, tmp_path / "more", None, CPU)
    with pytest.raises(UserError, match="--vicinal: needs one number"):
        start({**chosen, "vicinal": 0.1}, tmp_path / "more", None, CPU)


def test_points_train_and_resume_exactly(moons_archive, tmp_path):
    chosen = {"data": str(moons_archive), "batch": 64, "kimg": 1.28, "tick": 0.64, "snap": 1, "consistency_kimg": 0.5}
    assert start(chosen, tmp_path / "whole", None, CPU) == 0
    assert start({**chosen, "kimg": 0.64}, tmp_path / "parts", None, CPU) == 0
    assert start({"kimg": 1.28}, tmp_path / "parts", str(only_run(tmp_path / "parts")), CPU) == 0
    assert_same(final_state(only_run(tmp_path / "parts")), final_state(only_run(tmp_path / "whole")))


def test_resuming_refuses_another_run(digits_archive, tmp_path):
    start(options(digits_archive, kimg=0.032), tmp_path, None, CPU)
    with pytest.raises(UserError, match=r"--flatten: is 0\.1"):
        start({"flatten": 0.1}, tmp_path, "auto", CPU)
    with pytest.raises(UserError, match="--gpus=3"):
        start({"kimg": 0.064}, tmp_path, "auto", Machine(device="cpu", gpus=3))


def test_the_classifier_stays_frozen(digits_archive, tmp_path, frozen_cnn):
    start(options(digits_archive, metrics="condition"), tmp_path, None, CPU)  # which look at it at every tick
    travelled = load_snapshot(only_run(tmp_path) / "network-snapshot-000000.safetensors").classifier
    assert travelled.to_bytes() == frozen_cnn.to_bytes()


def test_integer_labels_are_annotated_into_a_cache(digits_archive, tmp_path, frozen_cnn, capsys):
    samples = replace(open_archive(digits_archive).load(), annotation=None)
    data = write_archive(tmp_path / "plain.zip", samples, progress=False)
    (tmp_path / "known.safetensors").write_bytes(frozen_cnn.to_bytes())
    before = data.read_bytes()
    for _ in range(2):
        chosen = options(data, kimg=0.008, cond_msp=True, classifier=str(tmp_path / "known.safetensors"))
        assert start(chosen, tmp_path / "runs", None, CPU) == 0
    assert data.read_bytes() == before
    (cache,) = tmp_path.glob(".plain.*.msp.zip")
    assert frozen_cnn.sha256[:12] in cache.name
    assert (open_archive(cache).u == open_archive(digits_archive).u).all()
    assert "taken from" in capsys.readouterr().out


def test_a_classifier_for_other_data_is_refused(digits_archive, moons_archive, tmp_path):
    digits = open_archive(digits_archive).load()
    other = replace(digits.annotation, classifier_bytes=open_archive(moons_archive).classifier_bytes)
    data = write_archive(tmp_path / "x.zip", replace(digits, annotation=other), progress=False)
    with pytest.raises(UserError, match="its classifier is for 2 classes of points"):
        start(options(data), tmp_path / "runs", None, CPU)
    assert not (tmp_path / "runs").exists()


def test_an_msp_without_a_classifier_trains_the_plain_way(digits_archive, tmp_path, capsys):
    digits = open_archive(digits_archive).load()
    bare = replace(digits, annotation=replace(digits.annotation, classifier_bytes=None))
    data = write_archive(tmp_path / "x.zip", bare, progress=False)
    assert start(options(data, kimg=0.008), tmp_path / "runs", None, CPU) == 0
    assert "holds no classifier" in capsys.readouterr().out
    with pytest.raises(UserError, match="--consistency"):
        start(options(data, consistency=2.0), tmp_path / "runs", None, CPU)


def test_labels_without_an_msp_train_nothing_in_silence(digits_archive, tmp_path, capsys):
    labelled = replace(open_archive(digits_archive).load(), annotation=None)
    data = write_archive(tmp_path / "x.zip", labelled, progress=False)
    for chosen, told in (({}, True), ({"cond": True}, False)):
        assert start({"data": str(data), **chosen}, tmp_path / "runs", None, CPU, dry_run=True) == 0
        assert ("has no MSP: training without any condition; annotate it" in capsys.readouterr().out) == told


def test_auto_does_not_go_on_with_other_data(digits_archive, tmp_path):
    """The newest run may have nothing to do with the archive; its name says that it is meant."""
    start(options(digits_archive), tmp_path / "runs", None, CPU)
    run = only_run(tmp_path / "runs")
    moved = tmp_path / "moved.zip"
    digits = open_archive(digits_archive).load()
    write_archive(moved, replace(digits, data=255 - digits.data), progress=False)
    with pytest.raises(UserError, match=rf"was trained on other data than .*moved.zip; name it \(--resume {run}\)"):
        start(options(moved), tmp_path / "runs", "auto", CPU)
    assert only_run(tmp_path / "runs") == run
    assert start(options(moved, kimg=0.008), tmp_path / "runs", str(run), CPU) == 0


def test_a_run_whose_data_are_gone_asks_for_them(digits_archive, tmp_path):
    data = tmp_path / "x.zip"
    data.write_bytes(digits_archive.read_bytes())
    start(options(data), tmp_path / "runs", None, CPU)
    moved = data.rename(tmp_path / "moved.zip")
    with pytest.raises(UserError, match=r"--data: .* was trained on .*x.zip, which is not here; give --data X.zip"):
        start({"kimg": 0.12}, tmp_path / "runs", "auto", CPU)
    assert start({"kimg": 0.12, "data": str(moved)}, tmp_path / "runs", "auto", CPU) == 0


@pytest.mark.parametrize("part", ["order", "G"])
def test_a_state_that_does_not_fit_is_one_line(moons_archive, tmp_path, part):
    """Of another version, say; what is there stays."""
    given = {"data": str(moons_archive), "batch": 8, "kimg": 0.008, "metrics": "none"}
    assert start(given, tmp_path, None, CPU) == 0
    (path,) = list_states(only_run(tmp_path))
    content = torch.load(path, weights_only=True)
    if part == "order":
        del content["state"]["order"]
    else:
        content["state"]["G"]["mapping.w_avg"] = torch.zeros(3)
    torch.save(content, path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=f"{path.name}: does not fit this version .*{part}") as caught:
        start({"kimg": 0.016}, tmp_path, "auto", CPU)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_data_that_go_while_a_run_trains_do_not_end_it(moons_archive, tmp_path, monkeypatch):
    """They are in memory; a snapshot says what they were, not what now lies in their place."""
    data = tmp_path / "moons.zip"
    data.write_bytes(moons_archive.read_bytes())
    sha256 = open_archive(data).content_sha256
    monkeypatch.setattr("stylegan2_msp.training.loop.save_reals", lambda *_: data.unlink())
    given = {"data": str(data), "batch": 8, "kimg": 0.008, "metrics": "none"}
    assert start(given, tmp_path / "runs", None, CPU) == 0
    snapshot = load_snapshot(only_run(tmp_path / "runs") / "network-snapshot-000000.safetensors")
    assert snapshot.info["data"]["sha256"] == sha256


def test_one_training_works_in_a_run_at_a_time(digits_archive, tmp_path):
    """A scheduler that starts a job again before the first has ended, say; the second changes nothing."""
    assert start(options(digits_archive, kimg=0.032), tmp_path, None, CPU) == 0
    run = only_run(tmp_path)
    half = run / ".training-state-000000.pt.12345.tmp"  # of a process that was killed while it wrote
    half.write_bytes(b"half")
    before = {path: path.read_bytes() for path in run.iterdir()}
    with FileLock(run / ".lock"), pytest.raises(UserError, match="another `train` works in it"):
        start({"kimg": 0.064}, tmp_path, "auto", CPU)
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    assert start({"kimg": 0.064}, tmp_path, "auto", CPU) == 0
    assert not half.exists()


def test_trainings_that_begin_at_once_have_runs_of_their_own(digits_archive, tmp_path):
    """A sweep of --gamma, say: the name tells seeds apart and nothing else."""
    plans = [prepare(options(digits_archive), tmp_path, None, CPU, "cpu", 1, False) for _ in range(2)]
    assert [plan.folder.name for plan in plans] == ["00000-digits-tiny-seed0", "00001-digits-tiny-seed0"]
    folders = [prepare(options(digits_archive), tmp_path, None, CPU, "cpu", 1, True) for _ in range(2)]
    assert folders == [None, None]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_console_that_is_gone_before_the_first_line_ends_no_run(moons_archive, tmp_path, monkeypatch):
    """`train ... | true`; every line of the set-up may be the first that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as console, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", console)
        assert start({"data": str(moons_archive), "kimg": 0.5, "metrics": "none"}, tmp_path, "auto", CPU) == 0
    assert (only_run(tmp_path) / "network-snapshot-000000.safetensors").is_file()


def test_another_run_starts_from_a_snapshot(digits_archive, tmp_path):
    start(options(digits_archive), tmp_path / "a", None, CPU)
    snapshot = only_run(tmp_path / "a") / "network-snapshot-000000.safetensors"
    with pytest.raises(UserError, match=r"--kimg: must be at least 0\.001, found 0"):
        start(options(digits_archive, kimg=0.0), tmp_path / "b", str(snapshot), CPU)
    start(options(digits_archive, kimg=0.008, snap=1), tmp_path / "b", str(snapshot), CPU)
    run = sorted((tmp_path / "b").iterdir())[-1]
    before, after = load_snapshot(snapshot).G, load_snapshot(run / "network-snapshot-000000.safetensors").G
    gaps = [(a - b).abs().max() for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert 0 < max(gaps) < 0.01


@pytest.mark.slow
def test_a_signal_saves_and_leaves_and_resuming_loses_nothing(digits_archive, tmp_path):
    """A run that is stopped by SIGTERM, then by SIGINT, ends with the bits of one that never was."""
    work = command(digits_archive, tmp_path / "parts of it", kimg=0.48, tick=0.064, snap=100)
    resumed = [sys.executable, str(SCRIPT), "--resume=auto", f"--outdir={tmp_path / 'parts of it'}", "--device=cpu"]
    resumed += ["--kimg=0.48"]
    reached = 0
    for words, signum, tick in ((work, signal.SIGTERM, "tick 2"), (resumed, signal.SIGINT, "tick 5")):
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        ) as child:
            for line in child.stdout:
                if line.startswith(tick):
                    child.send_signal(signum)
                    break
            out, err = child.communicate(timeout=60)
        assert child.returncode == 128 + signum, err
        assert "Stopped by signal" in out
        assert shlex.split(out.split("Go on with --resume ")[1]) == [str(only_run(tmp_path / "parts of it"))]
        assert "Traceback" not in err
        run = only_run(tmp_path / "parts of it")
        before, reached = reached, load_state(list_states(run)[-1])[1]["counters"]["nimg"]
        assert before + 128 <= reached < 480
    subprocess.run(resumed, check=True, env=environment(), capture_output=True)
    whole = command(digits_archive, tmp_path / "whole", kimg=0.48, tick=0.064, snap=100)
    subprocess.run(whole, check=True, env=environment(), capture_output=True)
    assert_same(final_state(run), final_state(only_run(tmp_path / "whole")))


@pytest.mark.slow
def test_kill_9_leaves_the_last_good_state(digits_archive, tmp_path):
    work = command(digits_archive, tmp_path, kimg=50, tick=0.008, resume="auto")
    reached = 0
    for delay in (0.05, 0.4, 0.9):
        with subprocess.Popen(
            work, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
        ) as child:
            ticks = (line for line in child.stdout if line.startswith("tick"))
            next(ticks), next(ticks)  # the second line comes after the first state is whole
            time.sleep(delay)
            child.kill()
        run = only_run(tmp_path)
        state = load_state(list_states(run)[-1])[1]
        assert state["counters"]["nimg"] > reached
        reached = state["counters"]["nimg"]
        for snapshot in run.glob("network-snapshot-*.safetensors"):
            load_snapshot(snapshot)


@pytest.mark.slow
@pytest.mark.parametrize("everything", [{}, EVERYTHING], ids=["default", "everything"])
def test_two_processes_see_the_batch_of_one(digits_archive, tmp_path, everything):
    # Three steps: Adam's first ones are as large as the rate whatever the gradient's size, so a weight whose gradient
    # is rounding parts at once. Where products of half a batch are rounded unlike those of a whole one (AVX512),
    # losses are 0.4 % apart in the fourth step, though both have shown D and told it the same numbers to the bit.
    more = {"fp32": True, "aug": "fixed", "p": 0.5, "kimg": 0.024, "tick": 0.008, "consistency_kimg": 0.0, **everything}
    runs = {}
    for gpus in (1, 2):
        work = command(digits_archive, tmp_path / str(gpus), gpus=gpus, **more)
        done = subprocess.run(work, capture_output=True, text=True, env=environment(), check=False)
        assert done.returncode == 0, done.stderr
        assert ("2 processes share the CPU" in done.stdout) == (gpus == 2)
        runs[gpus] = losses(only_run(tmp_path / str(gpus)))
    assert len(runs[1]) == len(runs[2]) == 3
    assert "loss/consistency" in runs[1][-1]
    for one, two in zip(runs[1], runs[2], strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_torchrun_joins_two_machines(digits_archive, tmp_path):
    """Two launchers, as on two machines, each with one process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    more = {"fp32": True, "kimg": 0.032, "tick": 0.008}
    single = subprocess.run(
        command(digits_archive, tmp_path / "one", **more), capture_output=True, env=environment(), check=False
    )
    assert single.returncode == 0, single.stderr
    words = command(digits_archive, tmp_path / "two", **more)[1:]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    place = ["--master-addr=127.0.0.1", f"--master-port={port}"]
    nodes = [
        subprocess.Popen([*launcher, f"--node-rank={rank}", *place, *words], env=environment(), stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]
    errors = [node.communicate(timeout=120)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], errors
    for one, two in zip(losses(only_run(tmp_path / "one")), losses(only_run(tmp_path / "two")), strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-5)


def test_a_run_that_goes_on_from_an_older_state_gives_up_the_later_ones(digits_archive, tmp_path, capsys, monkeypatch):
    """With another learning rate, say: the next --resume goes on from where that led."""

    def rename_there(source, target):
        if os.path.exists(target):  # on Windows
            raise FileExistsError(errno.EEXIST, "file exists", str(target))
        os.replace(source, target)

    monkeypatch.setattr(Path, "rename", rename_there)
    start(options(digits_archive, kimg=0.032), tmp_path, None, CPU)
    run = only_run(tmp_path)
    (state,) = list_states(run)
    later = run / "training-state-000009.pt"  # by its name
    later.write_bytes(state.read_bytes())
    (run / "training-state-000009.pt.given-up").write_bytes(b"")  # by an earlier time
    assert start({"kimg": 0.064, "lrate": 1e-5}, tmp_path, str(state), CPU) == 0
    assert list_states(run) == [state]
    assert (run / "training-state-000009.pt.given-up").read_bytes()
    assert "000009.pt.given-up: a later state of this run, which goes on from 0.0 kimg." in capsys.readouterr().out
    config, content = load_state(state)
    assert config.lrate == 1e-5
    assert content["counters"]["nimg"] == 64
    assert max(group["lr"] for group in content["opt_G"]["param_groups"]) <= 1e-5
    assert start({"kimg": 0.096}, tmp_path, "auto", CPU) == 0
    config, content = load_state(state)
    assert (config.lrate, content["counters"]["nimg"]) == (1e-5, 96)


def test_an_old_state_that_is_open_elsewhere_is_removed_the_next_time(tmp_path, monkeypatch):
    """As by a backup: Windows removes no open file, and a run ended there."""

    def in_use(path, missing_ok=False):
        raise PermissionError(errno.EACCES, "The process cannot access the file", str(path))

    config = SimpleNamespace(to_dict=dict)
    for kimg in range(1, 6):
        with monkeypatch.context() as patched:
            if kimg == 4:
                patched.setattr(Path, "unlink", in_use)
            save_state(tmp_path, SimpleNamespace(nimg=1000 * kimg, state_dict=dict), config)
    assert [path.name[-4:-3] for path in list_states(tmp_path)] == ["4", "5"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups")
def test_what_a_terminal_sends_to_all_processes_of_a_run_saves_it(digits_archive, tmp_path):
    """Ctrl-C reaches the first process and its workers, and the first one passes it on besides."""
    work = command(digits_archive, tmp_path, kimg=50, tick=0.064, snap=100, gpus=2)
    with subprocess.Popen(
        work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    ) as child:
        for line in child.stdout:
            if line.startswith("tick 2"):
                os.killpg(child.pid, signal.SIGINT)
                break
        out, err = child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGINT, err
    assert "Stopped by signal" in out
    assert "Traceback" not in err
    assert load_state(list_states(only_run(tmp_path))[-1])[1]["counters"]["nimg"] >= 128


@pytest.mark.slow
def test_a_killed_worker_is_named_and_nothing_else_said(digits_archive, tmp_path):
    work = command(digits_archive, tmp_path, kimg=50, tick=0.064, snap=1, gpus=2)
    with subprocess.Popen(work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) as child:
        for line in child.stdout:
            if line.startswith("tick 2"):
                workers = [p for p in psutil.Process(child.pid).children() if "spawn_main" in " ".join(p.cmdline())]
                workers[-1].kill()
                break
        _, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert err.startswith("error: process 1 of 2 was killed (memory ran out?)"), err
    assert err.count("\n") == 1
