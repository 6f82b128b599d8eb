"""A real checkout, patched: its train.py, generate.py, calc_metrics.py, style_mixing.py and projector.py on the CPU.

Runs where STYLEGAN2_ADA_PATH points to a checkout of commit d72cc7d. The feature detectors of its metrics are
downloads; in their place the fixture `cache` puts small scripted networks of random weights into its download cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from stylegan2_msp.data.archive import write_archive
from stylegan2_msp.data.samples import Annotation, Samples
from stylegan2_msp.snapshot import load_snapshot
from stylegan2_msp.upstream.export_reference import export_reference
from stylegan2_msp.upstream.import_network import import_network
from stylegan2_msp.upstream.patching import our_patches, patch_checkout

CHECKOUT = os.environ.get("STYLEGAN2_ADA_PATH")
pytestmark = pytest.mark.skipif(not CHECKOUT, reason="STYLEGAN2_ADA_PATH names no stylegan2-ada-pytorch checkout")
Run = Callable[..., str]
Look = Callable[[str], None]

# The checkout's own train.py, with networks and ticks that a test can wait for.
SMALL_TRAINING = """
    import sys
    sys.path.insert(0, ".")
    import train
    from training import training_loop

    def small(plain=training_loop.training_loop, **args):
        for kwargs in (args["G_kwargs"]["synthesis_kwargs"], args["D_kwargs"]):
            kwargs.update(channel_base=128, channel_max=8)
        args["G_kwargs"].update(z_dim=8, w_dim=8)
        args.update(kimg_per_tick=0.008, total_kimg=0.016, image_snapshot_ticks=1, network_snapshot_ticks=1)
        plain(**args)

    training_loop.training_loop = small
    if __name__ == "__main__":
        train.main()
"""
# The checkout's own calc_metrics.py, with metrics of few images added to its table.
SMALL_METRICS = """
    import runpy, sys
    sys.path.insert(0, ".")
    import dnnlib
    from metrics import frechet_inception_distance, metric_main, perceptual_path_length, precision_recall

    @metric_main.register_metric
    def few(opts):
        few = dict(max_real=None, num_gen=64)
        fid = frechet_inception_distance.compute_fid(opts, **few)
        precision, recall = precision_recall.compute_pr(opts, nhood_size=3, row_batch_size=50, col_batch_size=50, **few)
        how = dict(num_samples=8, epsilon=1e-4, space="w", sampling="end", crop=False, batch_size=2)
        ppl = perceptual_path_length.compute_ppl(opts, **how)
        return dict(fid=fid, precision=precision, recall=recall, ppl=ppl)

    sys.argv[0] = "calc_metrics.py"
    if __name__ == "__main__":
        runpy.run_path("calc_metrics.py", run_name="__main__")
"""
# What a program that looks into the checkout begins with.
LOOK = """
    import sys
    sys.path.insert(0, ".")
    import dnnlib
    import numpy as np
    import torch
    from torch.nn.functional import softplus
    from stylegan2_msp.classifiers import FrozenClassifier
    from stylegan2_msp.data.archive import open_archive
    from stylegan2_msp.data.dataset import TrainingSet, flat_weights
    from stylegan2_msp.training.diversity import real_diversity
    from stylegan2_msp.training.sharpness import rank_reals
    from stylegan2_msp.upstream.adapter import ReferenceDiscriminator, ReferenceGenerator
    from stylegan2_msp.upstream.dataset import MspDataset
    from stylegan2_msp.upstream.loss import MspLoss
    path = sys.argv[1]
    torch.manual_seed(0)
    kwargs, layers = dict(c_dim=11, img_resolution=16, img_channels=1), dict(channel_base=128, channel_max=8)
    G = ReferenceGenerator(z_dim=8, w_dim=8, **kwargs, synthesis_kwargs=layers)
    D = ReferenceDiscriminator(**kwargs, **layers)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patched copy."""
    copy = tmp_path_factory.mktemp("checkout") / "copy"
    shutil.copytree(str(CHECKOUT), copy, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    patch_checkout(copy, our_patches(), reverse=True)
    patch_checkout(copy, our_patches())
    (copy / "small_training.py").write_text(textwrap.dedent(SMALL_TRAINING))
    (copy / "small_metrics.py").write_text(textwrap.dedent(SMALL_METRICS))
    (copy / "imageio.py").write_text("")  # projector.py imports it for its video, which the test leaves out
    return copy


class Detector(torch.nn.Module):
    """Stands in for Inception and VGG: a random projection of a 4x4 thumbnail."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(48, 6, generator=torch.Generator().manual_seed(0)))

    def forward(
        self,
        img: torch.Tensor,
        return_features: bool = False,
        no_output_bias: bool = False,
        resize_images: bool = False,
        return_lpips: bool = False,
    ) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(img.float() / 255, [4, 4]).flatten(1) @ self.weight


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout's cache with stand-ins for its feature detectors."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "downloads").mkdir()
    for name in ("inception-2015-12-05.pt", "vgg16.pt"):
        url = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{name}"
        target = folder / "downloads" / f"{hashlib.md5(url.encode()).hexdigest()}_{name}"
        torch.jit.script(Detector()).save(str(target))
    return folder


@pytest.fixture(scope="module")
def run(checkout: Path, cache: Path) -> Run:
    """Runs a script of the checkout in a process of its own; returns all that it printed."""

    def run(*command: object, code: int = 0, **environment: str) -> str:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "DNNLIB_CACHE_DIR": str(cache), **environment}
        done = subprocess.run(
            [sys.executable, *map(str, command)], cwd=checkout, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def grey_archive(tmp_path_factory: pytest.TempPathFactory, grey_snapshot: Path) -> Path:
    """40 grey images of 10 classes with a level each, and the classifier."""
    random = np.random.RandomState(0)
    data = random.randint(0, 256, (40, 1, 16, 16)).astype(np.uint8)
    names = [f"00000/img{i:08d}.png" for i in range(40)]
    classifier = load_snapshot(grey_snapshot).classifier
    assert classifier is not None
    u = random.uniform(0.3, 1, 40).astype(np.float32)
    path = tmp_path_factory.mktemp("data") / "grey.zip"
    note = Annotation(u, classifier_bytes=classifier.to_bytes())
    write_archive(path, Samples(data, names, classes=np.arange(40) % 10, annotation=note))
    return path


@pytest.fixture(scope="module")
def look(run: Run, checkout: Path, grey_archive: Path) -> Look:
    """Runs a program after `LOOK` inside the checkout; its asserts must hold to its end."""

    def look(program: str) -> None:
        text = textwrap.dedent(LOOK) + textwrap.dedent(program) + "print('fits')\n"
        (checkout / "look.py").write_text(text)
        assert run("look.py", grey_archive).endswith("fits\n")

    return look


def train(run: Run, data: Path, outdir: Path, *options: str, **environment: str) -> Path:
    """Trains two ticks with all of our terms in the checkout's own loop; returns the run's folder."""
    terms = ["--cond-msp=1", "--consistency-kimg=0", "--consistency-uniform=1", "--label-noise=0.05", "--workers=1"]
    command = ["small_training.py", f"--outdir={outdir}", f"--data={data}", "--batch=8", "--metrics=none"]
    run(*command, *terms, *options, **environment)
    (folder,) = outdir.iterdir()
    return folder


def check_run(folder: Path, run: Run, out: Path) -> None:
    """Losses are numbers, pictures have levels by class, and the pickle generates."""
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert len(lines) >= 2
    losses = ("G/consistency", "G/consistency_uniform", "r1_penalty", "pl_penalty", "D/loss")
    assert all(np.isfinite(lines[-1][f"Loss/{name}"]["mean"]) for name in losses)
    assert 0 < lines[-1]["Loss/G/consistency"]["mean"] < 1
    assert PIL.Image.open(folder / "reals.png").size == (20 * 16, 8 * 16)  # two columns per class, eight levels
    run("generate.py", f"--network={next(folder.glob('*.pkl'))}", f"--outdir={out}", "--msp=0.7", "--seeds=0-3")
    assert PIL.Image.open(out / "seed0003.png").mode == "L"


def test_patch_check_reverse(checkout: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(str(CHECKOUT), copy, ignore=shutil.ignore_patterns("__pycache__"))
    patch_checkout(copy, our_patches(), reverse=True)
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file() and ".git" not in p.parts}
    assert all("can be applied" in line for line in patch_checkout(copy, our_patches(), check=True))
    patch_checkout(copy, our_patches())
    assert all("already applied" in line for line in patch_checkout(copy, our_patches()))
    patch_checkout(copy, our_patches(), reverse=True)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file() and ".git" not in p.parts} == before


def options_printed(text: str) -> dict[str, object]:
    return json.loads(text[text.index("{") : text.rindex("}") + 1])


@pytest.mark.slow
def test_dry_run(run: Run, grey_archive: Path, tmp_path: Path) -> None:
    command = ["train.py", f"--outdir={tmp_path}", f"--data={grey_archive}", "--gpus=2", "--dry-run"]
    args = options_printed(run(*command, "--cond-msp=1"))
    assert args["loss_kwargs"]["class_name"] == "stylegan2_msp.upstream.loss.MspLoss"  # type: ignore[index]
    before = options_printed(run(*command))
    assert "msp" not in json.dumps(before).replace(str(grey_archive), "")
    assert "--mirror: a flipped image" in run(*command, "--cond-msp=1", "--mirror=1", code=2)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_two_ticks_of_training(run: Run, grey_archive: Path, tmp_path: Path, processes: int) -> None:
    """On a CPU that stands for the GPUs (`upstream.cpu_loop`); two processes also pass the loop's consistency check."""
    folder = train(run, grey_archive, tmp_path / "runs", f"--gpus={processes}", STYLEGAN2_MSP_CPU_LOOP="1")
    check_run(folder, run, tmp_path / "out")
    data = next(folder.glob("*.pkl")).read_bytes()
    assert b"stylegan2_msp.upstream.adapter" in data  # by name, not by source as the checkout's own networks
    assert b"class ReferenceGenerator" not in data
    imported = import_network(next(folder.glob("*.pkl")))
    assert (imported.info["condition"], imported.info["num_classes"]) == ("class+msp", 10)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_two_ticks_of_training_on_a_gpu(run: Run, grey_archive: Path, tmp_path: Path) -> None:
    check_run(train(run, grey_archive, tmp_path / "runs"), run, tmp_path / "out")


@pytest.mark.slow
def test_generate_gives_our_images(run: Run, grey_snapshot: Path, rgb_snapshot: Path, tmp_path: Path) -> None:
    for name, snapshot, K in (("grey", grey_snapshot, 10), ("rgb", rgb_snapshot, 3)):
        pkl = tmp_path / f"{name}.pkl"
        export_reference(snapshot, pkl)
        for network in (pkl, snapshot):
            out = tmp_path / f"{name}-{network.suffix}"
            run("generate.py", f"--network={network}", f"--outdir={out}", "--msp=0.7", "--seeds=4,5")
            G = load_snapshot(snapshot).G
            z = torch.from_numpy(np.random.RandomState(5).randn(1, G.z_dim)).float()
            c = torch.cat([torch.eye(K)[5 % K], torch.tensor([0.7])])[None]
            wanted = (G(z, c, noise_mode="const")[0].permute(1, 2, 0) * 127.5 + 128).clamp(0, 255).to(torch.uint8)
            found = np.asarray(PIL.Image.open(out / "seed0005.png"))
            np.testing.assert_array_equal(found.reshape(wanted.shape), wanted.numpy())


@pytest.mark.slow
def test_generate_refuses_in_one_line(run: Run, grey_snapshot: Path, tmp_path: Path) -> None:
    command = ["generate.py", f"--network={grey_snapshot}", f"--outdir={tmp_path / 'out'}", "--seeds=0"]
    assert "--class 10: choose one from 0 to 9" in run(*command, "--class=10", code=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_metrics_of_an_exported_network(run: Run, grey_snapshot: Path, grey_archive: Path, tmp_path: Path) -> None:
    """With stand-ins for the feature detectors, so the figures mean nothing; that they come is what counts."""
    export_reference(grey_snapshot, tmp_path / "grey.pkl")
    said = run("small_metrics.py", f"--network={tmp_path / 'grey.pkl'}", f"--data={grey_archive}", "--metrics=few")
    results = next(json.loads(line)["results"] for line in said.splitlines() if line.startswith('{"results"'))
    assert results["fid"] > 0
    assert 0 <= results["precision"] <= 1
    assert 0 <= results["recall"] <= 1
    assert results["ppl"] > 0


@pytest.mark.slow
def test_style_mixing_and_projector(run: Run, grey_snapshot: Path, tmp_path: Path) -> None:
    mixed = ["style_mixing.py", f"--network={grey_snapshot}", f"--outdir={tmp_path}", "--rows=1", "--cols=2"]
    assert "--class: this network is conditional" in run(*mixed, "--styles=0-1", code=2)
    run(*mixed, "--styles=0-1", "--class=3", "--msp=0.6", "--trunc=0.7")
    assert PIL.Image.open(tmp_path / "grid.png").size == (32, 32)
    target = ["projector.py", f"--network={grey_snapshot}", f"--target={tmp_path / '1-1.png'}", "--num-steps=2"]
    run(*target, f"--outdir={tmp_path / 'w'}", "--save-video=0", "--class=3", "--msp=0.6")
    assert np.load(tmp_path / "w" / "projected_w.npz")["w"].shape[0] == 1


@pytest.mark.slow
def test_reference_s_own_network_is_treated_as_before(run: Run, checkout: Path, tmp_path: Path) -> None:
    """A class-conditional and an unconditional network of the checkout itself, without options of ours."""
    make = """
        import sys
        sys.path.insert(0, ".")
        import pickle, torch, dnnlib
        from training.networks import Discriminator, Generator
        for c_dim in (0, 3):
            torch.manual_seed(0)
            kwargs = dict(c_dim=c_dim, img_resolution=16, img_channels=3)
            layers = dict(channel_base=128, channel_max=8)
            G = Generator(z_dim=8, w_dim=8, **kwargs, synthesis_kwargs=layers).eval().requires_grad_(False)
            D = Discriminator(**kwargs, **layers).eval().requires_grad_(False)
            with open(sys.argv[1] + f"/{c_dim}.pkl", "wb") as f:
                pickle.dump(dict(G=G, D=D, G_ema=G), f)
    """
    (checkout / "make_networks.py").write_text(textwrap.dedent(make))
    run("make_networks.py", tmp_path)
    run("generate.py", f"--network={tmp_path / '0.pkl'}", f"--outdir={tmp_path / 'out0'}", "--seeds=0")
    run("generate.py", f"--network={tmp_path / '3.pkl'}", f"--outdir={tmp_path / 'out3'}", "--seeds=0", "--class=2")
    refused = ["generate.py", f"--network={tmp_path / '3.pkl'}", f"--outdir={tmp_path / 'out'}", "--seeds=0"]
    assert "Must specify class label" in run(*refused, code=2)
    run(
        "style_mixing.py",
        f"--network={tmp_path / '0.pkl'}",
        f"--outdir={tmp_path}",
        "--rows=1",
        "--cols=2",
        "--styles=0",
    )
    assert (tmp_path / "out0" / "seed0000.png").is_file()
    assert (tmp_path / "out3" / "seed0000.png").is_file()
    assert (tmp_path / "grid.png").is_file()


@pytest.mark.slow
def test_flattened_data_set(look: Look) -> None:
    """Each image comes as often as its weight asks for; reals and labels of fakes are drawn from the same items."""
    program = """
        plain, flat = MspDataset(path=path, use_labels=True), MspDataset(path=path, use_labels=True, flatten=0.5)
        labels = np.stack([plain.get_label(i) for i in range(len(plain))])
        assert labels.dtype == np.float32 and labels.shape == (40, 11) and not plain.has_onehot_labels
        assert ((labels[:, -1] > 0.3) & (labels[:, -1] < 1)).all()
        weights = 0.5 / 40 + 0.5 * flat_weights(torch.from_numpy(labels), 10).numpy()
        raw = [flat.get_details(i).raw_idx for i in range(len(flat))]
        assert len(flat) == 160
        assert (np.abs(np.bincount(raw, minlength=40) - 160 * weights) <= 1 + 1e-9).all()
        for i in (0, 77, 159):
            image, label = flat[i]
            assert (image == plain[raw[i]][0]).all() and (label == labels[raw[i]]).all()
            assert (flat.get_label(i) == label).all() and flat.levels[i] == label[-1]
    """
    look(program)


@pytest.mark.slow
def test_loss_of_g_is_the_checkout_s_plus_what_it_is_charged(look: Look) -> None:
    """The main phase: gain x gradients of (adversarial loss + weight x E[|v - u| + KL] + lack of diversity + what the
    witness charges); before the start the weights of both classifiers are 0."""
    program = """
        D.requires_grad_(False)
        archive = open_archive(path)
        f = FrozenClassifier.from_bytes(archive.classifier_bytes)
        z, given = torch.randn(4, 8), torch.from_numpy(archive.labels()[:4])
        c = given[[0, 1, 0, 1]]  # two fakes each get the same label
        networks = dict(G_mapping=G.mapping, G_synthesis=G.synthesis, D=D, style_mixing_prob=0)
        networks.update(consistency=2.0, diversity=3.0, consistency_witness=0.5)
        reals = real_diversity(TrainingSet(archive, "class+msp", torch.device("cpu")), 10, 3.0)
        for start, weight in ((0, 2.0), (20, 0.0)):
            loss = MspLoss(torch.device("cpu"), path, 10, consistency_kimg=start, **networks)
            assert torch.equal(loss.diversity.apart, reals.apart)
            loss.diversity.apart.fill_(500.0)  # a G that has learned nothing is more varied than reals
            torch.manual_seed(1)
            loss.accumulate_gradients("Gmain", None, None, z, given, True, 3.0)
            found = [p.grad.clone() for p in G.parameters()]
            G.zero_grad()
            torch.manual_seed(1)
            img = G(z, c)
            v, u = f.probs(img.clamp(-1, 1)).amax(dim=1), c[:, -1]
            kl = u * (u / v).log() + (1 - u) * ((1 - u) / (1 - v)).log()
            strayed = ((v - u).abs() + kl).mean()
            apart = img[:2] - img[2:]
            apart = apart - apart.mean(dim=(2, 3), keepdim=True)
            unlike = 0.5 * bool(weight) * loss.witness.charge(img, c, z, None)
            lacking = 1 - apart.flatten(1).norm(dim=1).mean() / 500
            ((softplus(-D(img, c)).mean() + weight * strayed + unlike + 3.0 * lacking) * 3.0).backward()
            for mine, p in zip(found, G.parameters()):
                torch.testing.assert_close(mine, p.grad, atol=1e-5, rtol=1e-4)
            G.zero_grad()
    """
    look(program)


@pytest.mark.slow
def test_d_is_told_the_sharpness(look: Look) -> None:
    """Of fakes the second number of their latent, of reals their rank; its own loop's label of D gets the middle."""
    program = """
        D = ReferenceDiscriminator(**kwargs, **layers, mapping_kwargs={}, sharpness=True)
        told = []
        D.register_forward_pre_hook(lambda module, given: told.append(given[1]))
        data = TrainingSet(open_archive(path), "class+msp", torch.device("cpu"))
        networks = dict(G_mapping=G.mapping, G_synthesis=G.synthesis, D=D, style_mixing_prob=0)
        loss = MspLoss(torch.device("cpu"), path, 10, label_noise=0.1, sharpness=True, **networks)
        z, c = torch.randn(4, 8), data.labels[:4]
        real, real_c = data.reals(torch.arange(8, 12)), data.labels[8:12]
        for phase in ("Gmain", "Dmain", "Dreg"):
            loss.accumulate_gradients(phase, real, real_c, z, c, True, 1.0)
        of_fakes, of_reals = torch.special.ndtr(z[:, 1]), rank_reals(data, 10)(real, real_c)
        for found, wanted in zip(told, (of_fakes, of_fakes, of_reals, of_reals), strict=True):
            torch.testing.assert_close(found[:, -1], wanted)
        assert torch.equal(D(real, real_c), D(real, torch.nn.functional.pad(real_c, (0, 1), value=0.5)))
    """
    look(program)


@pytest.mark.slow
def test_mixed_latents_share_what_settles_a_fake(look: Look) -> None:
    """Else the first layers would follow one order (whether f names the class, how sharp), the last ones another."""
    program = """
        networks = dict(G_mapping=G.mapping, G_synthesis=G.synthesis, D=D, style_mixing_prob=1.0)
        loss = MspLoss(torch.device("cpu"), path, 10, sharpness=True, **networks)
        latents = []
        G.mapping.register_forward_hook(lambda module, given, ws: latents.append(given[0]))
        z, c = torch.randn(4, 8), torch.zeros(4, 11)
        img, ws = loss.run_G(z, c, sync=True)
        first, second = latents
        assert torch.equal(first, z) and torch.equal(second[:, :3], z[:, :3]) and (second[:, 3:] != z[:, 3:]).all()
        latents.clear()
        MspLoss(torch.device("cpu"), path, 10, **networks).run_G(z, c, sync=True)  # where nothing is settled
        assert (latents[1] != z).all()
        layers = [[torch.equal(ws[:, i], w[:, i]) for w in (G.mapping(z, c), G.mapping(second, c))]
                  for i in range(ws.shape[1])]
        assert layers[0] == [True, False] and layers[-1] == [False, True], layers
    """
    look(program)


@pytest.mark.slow
def test_vicinal_sampling(look: Look) -> None:
    """Reals lie near the noisy level that D is told (or are the nearest of their class), fakes within kappa of it."""
    program = """
        torch.manual_seed(0)
        kappa = 0.05
        plain = MspDataset(path=path, use_labels=True)
        near = MspDataset(path=path, use_labels=True, vicinal=kappa, label_noise=0.1)
        images = {plain[i][0].tobytes(): plain.get_label(i) for i in range(40)}
        others = 0
        for i in [*range(40)] * 3:
            image, told = near[i]
            own = images[image.tobytes()]
            assert (own[:10] == told[:10]).all() and (near.get_label(i) == plain.get_label(i)).all()
            distances = [abs(u[10] - told[10]) for u in images.values() if (u[:10] == told[:10]).all()]
            found = abs(own[10] - told[10])
            assert found <= kappa + 1e-6 or abs(found - min(distances)) < 1e-6
            others += not (own == near.get_label(i)).all()
        assert others > 20
        given, told = [], []
        G.mapping.register_forward_pre_hook(lambda module, args: given.append(args[1]))
        D.register_forward_pre_hook(lambda module, args: told.append(args[1]))
        networks = dict(G_mapping=G.mapping, G_synthesis=G.synthesis, D=D, style_mixing_prob=0)
        loss = MspLoss(torch.device("cpu"), path, 10, label_noise=0.1, vicinal=kappa, **networks)
        real, real_c = torch.from_numpy(np.stack([near[i][0] for i in range(32)])) / 127.5 - 1, torch.rand(32, 11)
        c = torch.from_numpy(np.stack([plain.get_label(i) for i in range(32)]))
        c[:, 10] = 0.6
        loss.accumulate_gradients("Dmain", real, real_c, torch.randn(32, 8), c, True, 1.0)
        (given,), (of_fakes, of_reals) = given, told
        assert torch.equal(of_reals, real_c)  # the data set has told them already
        assert torch.equal(of_fakes[:, :10], c[:, :10]) and torch.equal(given[:, :10], c[:, :10])
        moved, apart = of_fakes[:, 10] - 0.6, given[:, 10] - of_fakes[:, 10]
        assert 0.06 < moved.std() < 0.14 and apart.abs().max() <= kappa + 1e-6 and 0.02 < apart.std() < 0.04
    """
    look(program)


@pytest.mark.slow
def test_two_ticks_of_vicinal_training(run: Run, grey_archive: Path, tmp_path: Path) -> None:
    options = ["--vicinal=0.05", "--diversity=4", "--gpus=1"]
    check_run(train(run, grey_archive, tmp_path / "runs", *options, STYLEGAN2_MSP_CPU_LOOP="1"), run, tmp_path / "out")
