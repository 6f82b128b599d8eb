"""Wrong options, damaged states and snapshots: one line each, nothing lost."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from stylegan2_msp.cli.train import train
from stylegan2_msp.config import DataInfo, TrainConfig, resolve
from stylegan2_msp.data.archive import open_archive, write_archive
from stylegan2_msp.data.samples import Samples, default_names
from stylegan2_msp.errors import UserError
from stylegan2_msp.files import make_folder, replacing
from stylegan2_msp.presets import PRESETS
from stylegan2_msp.snapshot import load_snapshot, newest_snapshot, save_snapshot
from stylegan2_msp.training.checkpoint import load_state, save_state
from stylegan2_msp.training.distributed import choose_device
from stylegan2_msp.training.launch import start
from stylegan2_msp.training.plan import Machine, _continued
from stylegan2_msp.training.step import Trainer

SCRIPT = Path(__file__).parents[3] / "scripts" / "train.py"


class Evil:
    """Would make a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--p=0.2"], "--p: goes with --aug fixed"),
        (["--aug=fixed"], "needs the probability"),
        (["--mirror=1"], "--mirror"),
        (["--gamma=-1"], "--gamma: must be at least 0, found -1"),
        (["--augpipe=nonsense"], "--augpipe: must be one of"),
        (["--cfg=points"], "the data are images"),
        (["--batch=0"], "--batch 0: must be a positive multiple"),
        (["--flatten=1.5"], "--flatten: must be in [0, 1]"),
        (["--consistency-uniform=-1"], "--consistency-uniform: must be at least 0, found -1"),
        (["--consistency-class=nan"], "--consistency-class: must be at least 0, found nan"),
        (["--consistency-share=5"], "--consistency-share: must be in [0, 4]"),
        (["--consistency-augment=2"], "--consistency-augment: must be in [0, 1]"),
        (["--consistency-ramp=-3"], "--consistency-ramp: must be at least 0"),
        (["--label-noise=-0.1"], "--label-noise: must be in [0, 1]"),
        (["--vicinal=7"], "--vicinal: must be in [0, 1]"),
        (["--embedding=film", "--cond-msp=0", "--cond=1"], "--embedding film: needs the MSP"),
        (["--consistency=5", "--cond-msp=0", "--cond=1"], "--consistency: needs the MSP; add --cond-msp=1"),
        (["--sharpness=1", "--cond-msp=0", "--cond=1"], "--sharpness: needs the MSP; add --cond-msp=1"),
        (["--aug=noaug", "--target=0.3"], "--target: goes with --aug ada, found --aug noaug"),
        (["--batch-gpu=0"], "--batch-gpu: must be at least 1, found 0"),
        (["--batch-gpu=-4"], "--batch-gpu: must be at least 1, found -4"),
        (["--lrate=-1"], "--lrate: must be at least 0, found -1"),
        (["--lrate=nan"], "--lrate: must be at least 0, found nan"),
        (["--kimg=inf"], "--kimg: must be finite, found inf"),
        (["--tick=nan"], "--tick: must be at least 0, found nan"),
        (["--z-dim=2"], "--z-dim: must be at least 3, found 2"),
        (["--consistency-witness=-1"], "--consistency-witness: must be at least 0, found -1"),
        (["--subset=100000"], "ask for fewer or leave it out"),
        (["--freezed=2"], "--freezed: keeps layers of D as another run left them; add --resume"),
        (["--cond=0", "--consistency=5"], "--consistency: needs the MSP"),
        (["--cond=0", "--cond-msp=1"], "--cond=0: asks for no condition"),
        (["--seed=20251128125501"], "--seed: must be in [0, 4294967295]"),
    ],
)
def test_wrong_options_are_named(digits_archive, tmp_path, words, wanted):
    given = [f"--data={digits_archive}", f"--outdir={tmp_path}", "--device=cpu", "--kimg=0.001", *words]
    result = CliRunner().invoke(train, given)
    assert isinstance(result.exception, UserError)
    assert wanted in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_a_label_noise_that_is_no_number_is_wrong_usage(digits_archive, tmp_path):
    words = [f"--data={digits_archive}", f"--outdir={tmp_path}", "--label-noise=loud"]
    result = CliRunner().invoke(train, words)
    assert result.exit_code == 2
    assert "'loud' is not a valid float" in result.output


def test_a_run_does_not_go_into_its_data(digits_archive, tmp_path):
    with zipfile.ZipFile(digits_archive) as file:
        file.extractall(tmp_path / "data")
    for outdir in (tmp_path / "data", tmp_path / "data" / "runs"):
        words = [f"--data={tmp_path / 'data'}", f"--outdir={outdir}", "--device=cpu", "--dry-run"]
        result = CliRunner().invoke(train, words)
        assert isinstance(result.exception, UserError)
        assert "lies in the data" in str(result.exception)
    assert not (tmp_path / "data" / "runs").exists()
    beside = ["--device=cpu", "--dry-run", f"--outdir={tmp_path / 'data-runs'}"]
    assert CliRunner().invoke(train, [f"--data={tmp_path / 'data'}", *beside]).exit_code == 0


@pytest.mark.parametrize(("words", "wanted"), [([], "class+msp"), (["--cond=1"], "class"), (["--cond=0"], "none")])
def test_what_cond_asks_for_on_annotated_data(digits_archive, tmp_path, words, wanted):
    result = CliRunner().invoke(train, [f"--data={digits_archive}", f"--outdir={tmp_path}", "--dry-run", *words])
    assert f'"condition": "{wanted}"' in result.output


def test_a_run_is_named_after_the_data_that_were_given(digits_archive, tmp_path):
    archive = open_archive(digits_archive)
    samples = archive.load()
    write_archive(tmp_path / "bare.zip", Samples(samples.data, samples.names, samples.classes), progress=False)
    (tmp_path / "f.safetensors").write_bytes(archive.classifier_bytes)
    words = [f"--data={tmp_path / 'bare.zip'}", f"--classifier={tmp_path / 'f.safetensors'}", "--dry-run"]
    result = CliRunner().invoke(train, [*words, f"--outdir={tmp_path / 'runs'}", "--device=cpu"])
    assert f"would train in {tmp_path / 'runs' / '00000-bare-tiny-seed0'}." in result.output


def test_points_have_no_augmentation_for_the_classifier_either(moons_archive, tmp_path):
    words = [f"--data={moons_archive}", f"--outdir={tmp_path}", "--device=cpu", "--consistency-augment=0.5"]
    result = CliRunner().invoke(train, words)
    assert "--consistency-augment: 2-D points have no augmentation" in str(result.exception)


def test_the_command_prints_one_line_and_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), f"--data={tmp_path / 'missing.zip'}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "missing.zip" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_cond_msp_without_msp_and_without_classifier(tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (6, 1, 16, 16), dtype=np.uint8)
    write_archive(tmp_path / "x.zip", Samples(images, default_names("images", 6), np.arange(6) % 2), progress=False)
    words = [
        f"--data={tmp_path / 'x.zip'}",
        f"--outdir={tmp_path / 'runs'}",
        "--cond-msp=1",
        "--dry-run",
        "--device=cpu",
    ]
    result = CliRunner().invoke(train, words)
    assert "has no MSP" in str(result.exception)


def test_dry_run_prints_the_configuration_and_writes_nothing(digits_archive, tmp_path):
    words = [f"--data={digits_archive}", f"--outdir={tmp_path / 'runs'}", "--dry-run", "--device=cpu"]
    result = CliRunner().invoke(train, words)
    assert result.exit_code == 0
    assert '"condition": "class+msp"' in result.output
    assert '"cfg": "tiny"' in result.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("cfg", ["auto", "stylegan2", "paper256", "paper512", "paper1024", "cifar", "tiny"])
def test_every_preset_resolves_and_what_is_given_wins(cfg):
    data = DataInfo("images", 256, 3, 10, annotated=True)
    config = resolve({"data": "x.zip", "cfg": cfg}, data, processes=2, device="cuda", bf16_cpu=False)
    preset = PRESETS[cfg]
    assert config.batch == preset.batch or (cfg == "auto" and config.batch == 32)
    assert config.batch_gpu * 2 == config.batch
    assert config.gamma == (0.0002 * 256**2 / 32 if cfg == "auto" else preset.gamma)
    given = {"data": "x.zip", "cfg": cfg, "gamma": 7.0, "batch": 16, "seed": 3, "aug": "fixed", "p": 0.25}
    config = resolve(given, data, processes=1, device="cuda", bf16_cpu=False)
    assert (config.gamma, config.batch, config.seed, config.aug_p) == (7.0, 16, 3, 0.25)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 256), ("bf16", None), ("fp32", None), (None, 256)], ids=str)
def test_features_are_bounded_where_half_precision_could_overflow(precision, bound):
    """float16 ends at 65,504; bfloat16 and float32 reach as far as one another, and a bound is a pass over memory."""
    data = DataInfo("images", 32, 1, 10, annotated=True)
    config = resolve({"data": "x.zip", "cfg": "tiny", "precision": precision}, data, 1, "cuda", bf16_cpu=False)
    assert config.G_kwargs["synthesis_kwargs"]["conv_clamp"] == config.D_kwargs["conv_clamp"] == bound


def test_the_cifar_preset_has_the_published_values():
    config = resolve({"data": "x.zip", "cfg": "cifar"}, DataInfo("images", 32, 3, 10, annotated=True), 2, "cuda", False)
    assert (config.kimg, config.batch, config.lrate, config.gamma) == (100_000, 64, 0.0025, 0.01)
    assert (config.ema_kimg, config.ema_rampup, config.pl_weight, config.style_mixing) == (500, 0.05, 0, 0)
    assert config.D_kwargs["architecture"] == "orig"
    assert config.G_kwargs["mapping_kwargs"]["num_layers"] == 2


def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="--gpus=2: this machine has 1"):
        choose_device(None, 2)
    assert choose_device(None, None) == ("cuda", 1)
    assert choose_device("cpu", 2) == ("cpu", 2)


def test_more_processes_than_a_launcher_started(moons_archive, tmp_path, monkeypatch):
    """Some clusters set these for every job; training went on in one process without a word."""
    for name, value in (("RANK", 0), ("WORLD_SIZE", 1)):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UserError, match=r"--gpus=2: RANK and WORLD_SIZE are set.* say 1; leave --gpus out, or unset"):
        start({"data": str(moons_archive)}, tmp_path, None, Machine(device="cpu", gpus=2))
    assert not list(tmp_path.iterdir())


def test_cpu_only_machines(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None, 2) == ("cpu", 2)
    with pytest.raises(UserError, match="no usable CUDA"):
        choose_device("cuda", 1)


@pytest.fixture
def snapshot(tmp_path, frozen_cnn):
    from stylegan2_msp.networks import Generator

    G = Generator(8, 11, 8, 16, 1, synthesis_kwargs={"channel_base": 64, "channel_max": 8})
    path = tmp_path / "network-snapshot-000001.safetensors"
    save_snapshot(path, G, frozen_cnn.to_bytes(), {"num_classes": 10, "kind": "images"})
    return path


def test_a_snapshot_rebuilds_the_generator_and_its_classifier(snapshot, frozen_cnn):
    loaded = load_snapshot(snapshot)
    z, c = torch.randn(2, 8), torch.eye(11)[:2]
    assert torch.isfinite(loaded.G(z, c)).all()
    img = torch.rand(2, 1, 16, 16)
    assert torch.equal(loaded.classifier(img), frozen_cnn(img))
    assert newest_snapshot(snapshot.parent) == snapshot


def test_a_truncated_snapshot(snapshot):
    for length in (0, 5, 100, 2000, snapshot.stat().st_size - 1):
        short = snapshot.with_name("short.safetensors")
        short.write_bytes(snapshot.read_bytes()[:length])
        with pytest.raises(UserError, match=r"short\.safetensors"):
            load_snapshot(short)


def test_pickles_are_refused_unread(tmp_path):
    target = tmp_path / "ran"
    plain = tmp_path / "net.pkl"
    plain.write_bytes(pickle.dumps(Evil(target)))
    zipped = tmp_path / "net.safetensors"
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Evil(target)))
    for path in (plain, zipped):
        with pytest.raises(UserError, match="pickle"):
            load_snapshot(path)
    state = tmp_path / "training-state-000001.pt"
    torch.save({"format": "x", "evil": Evil(target)}, state)
    with pytest.raises(UserError, match="training state"):
        load_state(state)
    assert not target.exists()


def test_other_safetensors_files(tmp_path):
    save_file({"a": torch.zeros(3)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(UserError, match="is not a stylegan2-msp snapshot"):
        load_snapshot(tmp_path / "other.safetensors")


def test_damaged_states(tmp_path):
    path = tmp_path / "training-state-000001.pt"
    content = io.BytesIO()
    torch.save({"format": "stylegan2-msp training state 1"}, content)
    for data in (b"", b"nonsense", content.getvalue(), content.getvalue()[:-40]):
        path.write_bytes(data)
        with pytest.raises(UserError, match="cannot be read as a training state"):
            load_state(path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        write_half()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_threads_that_write_one_file_leave_one_of_theirs_whole(tmp_path):
    path, begun = tmp_path / "file", threading.Barrier(2)

    def write(text):
        with replacing(path) as temporary:
            begun.wait(10)
            temporary.write_text(text)
            begun.wait(10)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write, ("a" * 9, "b" * 5))) == [None, None]
    assert path.read_text() in ("a" * 9, "b" * 5)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_during_a_snapshot_keeps_the_old_one(snapshot, monkeypatch, frozen_cnn):
    before = snapshot.read_bytes()
    G = load_snapshot(snapshot).G

    def full(_path, content):
        with open("/dev/full", "wb") as file:
            file.write(content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        save_snapshot(snapshot, G, None, {})
    assert snapshot.read_bytes() == before
    assert len(list(snapshot.parent.iterdir())) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device")
def test_a_full_disk_during_a_state_keeps_the_old_one(tmp_path, monkeypatch):
    state = SimpleNamespace(nimg=1000, state_dict=lambda: {"G": torch.zeros(100_000)})
    config = SimpleNamespace(to_dict=dict)
    old = save_state(tmp_path, state, config)
    before, save = old.read_bytes(), torch.save
    state.nimg = 2000
    monkeypatch.setattr(torch, "save", lambda content, _: save(content, "/dev/full"))
    with pytest.raises(UserError, match=r"state-000002.pt: cannot be written whole .*--resume"):
        save_state(tmp_path, state, config)
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
    assert old.read_bytes() == before


def test_an_output_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be made"):
        make_folder(tmp_path / "file" / "runs")


@pytest.mark.parametrize(
    ("batch", "given", "before", "after", "at_once"),
    [(48, 16, 1, 2, 12), (48, 16, 1, 1, 16), (32, None, 1, 4, 8), (32, None, 4, 1, 32), (96, 32, 1, 3, 32)],
)
def test_a_resumed_run_shows_every_image_that_it_counts(batch, given, before, after, at_once):
    images = DataInfo("images", 16, 1, 10, annotated=True)
    saved = resolve({"data": "x", "cfg": "tiny", "batch": batch, "batch_gpu": given}, images, before, "cpu", False)
    found = _continued(saved, {}, after)
    assert found.batch_gpu == at_once
    assert batch // after % at_once == 0
    assert at_once % saved.D_kwargs["epilogue_kwargs"]["mbstd_group_size"] == 0


def test_a_resumed_run_keeps_the_groups_of_its_discriminator():
    images = DataInfo("images", 16, 1, 10, annotated=True)
    saved = resolve({"data": "x", "cfg": "tiny", "batch": 24}, images, 1, "cpu", False)
    with pytest.raises(UserError, match=r"--gpus=4: D compares groups of 4 images, .* share of 6"):
        _continued(saved, {}, 4)


def test_what_is_advised_against_divergence_can_be_done():
    images = DataInfo("images", 16, 1, 10, annotated=True)
    saved = resolve({"data": "x", "cfg": "tiny"}, images, 1, "cpu", False)
    found = _continued(saved, {"gamma": 7.0, "lrate": 1e-4}, 1)
    assert (found.gamma, found.lrate) == (7.0, 1e-4)


@pytest.mark.parametrize(
    ("at_once", "less"), [(8, "start with --batch-gpu=4"), (1, "choose smaller networks with --cfg")]
)
def test_a_full_gpu_is_named_with_what_helps(digits_archive, tmp_path, monkeypatch, at_once, less):
    """A GPU that is too small for a preset of eight is the first thing that many meet."""

    def step(_: Trainer) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Trainer, "step", step)
    words = ["--data", digits_archive, "--outdir", tmp_path, "--device=cpu", "--batch=8", f"--batch-gpu={at_once}"]
    said = CliRunner().invoke(train, list(map(str, words)))
    assert isinstance(said.exception, UserError)
    assert str(said.exception) == f"--batch-gpu: {at_once} images at once do not fit in the GPU's memory; {less}"
