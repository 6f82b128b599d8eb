"""The Python way to generate: what a seed, a class and an MSP decide, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stylegan2_msp.errors import UserError
from stylegan2_msp.generation import ConditionalGenerator, load_generator, to_uint8
from stylegan2_msp.metrics.asking import ask_uniform
from stylegan2_msp.request import Request
from stylegan2_msp.search import Search
from stylegan2_msp.seeds import SeedRng, latents, redrawn, redrawn_latents
from stylegan2_msp.snapshot import Snapshot


def test_public_names_and_shape(rgb_snapshot):
    from stylegan2_msp import FrozenClassifier, load_generator

    generator = load_generator(rgb_snapshot)
    images = generator.sample(classes=[2, 2], msp=0.7, seeds=[0, 1])
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert not torch.equal(images[0], images[1])
    assert isinstance(generator.classifier, FrozenClassifier)


def test_importing_the_package_does_not_import_torch():
    code = "import stylegan2_msp, sys; assert 'torch' not in sys.modules and 'load_generator' in stylegan2_msp.__all__"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_loading_leaves_the_random_state_alone(grey_snapshot):
    state = torch.random.get_rng_state()
    load_generator(grey_snapshot, "cpu")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_seeds_are_no_items_of_the_usual_shape(rgb_snapshot, points_snapshot):
    for path, shape in ((rgb_snapshot, (0, 3, 16, 16)), (points_snapshot, (0, 2))):
        generator = load_generator(path, "cpu")
        nothing = generator.sample(classes=1, seeds=[])
        assert nothing.shape == shape
        assert generator.classifier.predict(nothing)[1].shape == (0,)


def test_classes_by_name(grey_snapshot):
    grey = load_generator(grey_snapshot)
    grey.class_names = ["round", "very round", *grey.class_names[2:]]
    by_number = grey.sample(classes=[1, 0], msp=0.7, seeds=[0, 1])
    assert torch.equal(grey.sample(classes=["very round", "round"], msp=0.7, seeds=[0, 1]), by_number)
    assert torch.equal(grey.sample(classes="very round", seeds=[0, 1]), grey.sample(classes=1, seeds=[0, 1]))
    with pytest.raises(UserError, match="class 'square': is none of round, very round"):
        grey.sample(classes="square")
    grey.class_names = ["Gru\u0308n", *grey.class_names[1:]]  # as the Finder of macOS stores accents
    assert grey.class_number("Gr\u00fcn") == 0
    for wrong in ({"seeds": [0.5]}, {"classes": [1.5]}):  # neither becomes a whole one
        with pytest.raises(TypeError):
            grey.sample(**wrong)
    whole = grey.sample(classes=torch.tensor([1, 0]), msp=0.7, seeds=np.array([0, 1]))
    assert torch.equal(whole, by_number)


def test_a_run_folder_stands_for_its_newest_snapshot(grey_snapshot):
    by_file = load_generator(grey_snapshot).sample(seeds=[5])
    by_folder = load_generator(grey_snapshot.parent).sample(seeds=[5])
    assert torch.equal(by_file, by_folder)


def test_latents_are_the_familys_and_depend_on_the_seed_alone():
    z = latents([7, 3], 6)
    assert np.allclose(z[0], np.random.RandomState(7).randn(1, 6)[0])
    assert torch.equal(z[1:], latents([3], 6))
    assert redrawn([7, 3], 0) == [7, 3]
    drawn = [seed for draw in (1, 2, 3) for seed in redrawn(range(500), draw)]
    assert len(set(drawn)) == 1500
    assert redrawn([3], 2) == redrawn([9, 3], 2)[1:]
    other = redrawn_latents(z, [7, 3], 1)
    assert torch.equal(other[:, :3], z[:, :3])  # what they settle stays
    assert (other[:, 3:] != z[:, 3:]).all()
    assert torch.equal(redrawn_latents(z, [7, 3], 0), z)
    many = redrawn_latents(torch.zeros(4000, 6), range(4000), 5)[:, 3:]
    assert many.mean().abs() < 0.03
    assert many.std() == pytest.approx(1, abs=0.03)


def test_neither_batch_nor_company_changes_an_image(grey):
    together = grey.sample(classes=[1, 2, 3, 4, 5], msp=[1, 0.9, 0.8, 0.7, 0.6], seeds=[9, 8, 7, 6, 5], batch=2)
    alone = grey.sample(classes=3, msp=0.8, seeds=[7])
    assert torch.allclose(together[2:3], alone, atol=1e-5)


def test_class_msp_and_truncation_change_the_image(grey):
    base = grey.sample(classes=3, msp=0.7, seeds=[7])
    for other in (
        grey.sample(classes=4, msp=0.7, seeds=[7]),
        grey.sample(classes=3, msp=0.9, seeds=[7]),
        grey.sample(classes=3, msp=0.7, seeds=[7], truncation_psi=0.3),
    ):
        assert (other - base).abs().max() > 1e-4


def test_defaults_are_seed_modulo_classes_and_full_confidence(grey):
    assert torch.equal(grey.sample(seeds=[13]), grey.sample(classes=[3], msp=1.0, seeds=[13]))


def test_random_noise_follows_the_seed_and_leaves_the_global_state_alone(noisy):
    before = torch.get_rng_state()
    one = noisy.sample(seeds=[1, 2], noise_mode="random")
    again = noisy.sample(seeds=[2], noise_mode="random", classes=[2])
    assert torch.equal(before, torch.get_rng_state())
    assert torch.allclose(one[1:], again, atol=1e-5)
    assert (one - noisy.sample(seeds=[1, 2], noise_mode="none")).abs().max() > 1e-4


@pytest.mark.usefixtures("default_float64")
def test_the_callers_default_dtype_changes_nothing(noisy, rgb_snapshot):
    asked = {"classes": [1, 2], "msp": [0.9, 0.6], "seeds": [4, 5], "noise_mode": "random"}
    found, loaded = noisy.sample(**asked), load_generator(rgb_snapshot, "cpu")
    images = loaded.sample(**asked, within=0.1, draws=2)
    level = ask_uniform(10, [0.5, 1.0], 4, 16, torch.Generator().manual_seed(0)).z
    torch.set_default_dtype(torch.float32)
    assert torch.equal(found, noisy.sample(**asked))
    again = load_generator(rgb_snapshot, "cpu")
    assert torch.equal(images, again.sample(**asked, within=0.1, draws=2))
    assert torch.equal(loaded.classifier.predict(images)[1], again.classifier.predict(images)[1])
    assert torch.equal(level, ask_uniform(10, [0.5, 1.0], 4, 16, torch.Generator().manual_seed(0)).z)
    torch.set_default_dtype(torch.bfloat16)  # in which 0.9 is 0.8984
    assert torch.equal(noisy.labels([Request(0, 1, 0.9)])[:, -1], torch.tensor([0.9], dtype=torch.float32))


def test_seed_rng_rows_are_independent_of_each_other():
    rows = SeedRng([4, 5]).randn(2, 3)
    assert torch.equal(rows[1:], SeedRng([5]).randn(1, 3))
    with pytest.raises(ValueError, match="2 seeds"):
        SeedRng([4, 5]).randn(3, 1)


def test_truncation_to_zero_is_the_mean_of_the_asked_condition(grey):
    flat = grey.sample(classes=[3, 3], msp=[0.7, 0.7], seeds=[0, 1], truncation_psi=0)
    other = grey.sample(classes=[4], msp=[0.7], seeds=[0], truncation_psi=0)
    assert torch.allclose(flat[0], flat[1], atol=1e-5)
    assert (flat[:1] - other).abs().max() > 1e-4


@pytest.mark.parametrize("msp", [0.0, -1.0, 1.0001, float("nan"), float("inf"), 0.05])
def test_impossible_msp(grey, msp):
    with pytest.raises(UserError, match="--msp") as error:
        grey.sample(msp=msp, seeds=[0])
    assert "\n" not in str(error.value)


def test_least_msp_of_three_classes_is_accepted(rgb_snapshot):
    generator = load_generator(rgb_snapshot)
    assert generator.sample(msp=1 / 3, seeds=[0]).shape == (1, 3, 16, 16)
    with pytest.raises(UserError, match=r"at least 0\.3334"):
        generator.sample(msp=0.3, seeds=[0])


@pytest.mark.parametrize("cls", [10, -1])
def test_class_out_of_range(grey, cls):
    with pytest.raises(UserError, match="classes 0 to 9"):
        grey.sample(classes=cls, seeds=[0])


def test_lists_of_different_lengths(grey):
    with pytest.raises(ValueError, match="2 classes"):
        grey.sample(classes=[1, 2], seeds=[0, 1, 2])
    with pytest.raises(UserError, match="--seeds"):
        grey.sample(seeds=[-1])


def test_one_class_level_or_seed_stands_for_all(grey):
    falling = grey.sample(classes=3, msp=[1, 0.7, 0.4], seeds=0)
    assert torch.equal(falling, grey.sample(classes=[3] * 3, msp=[1, 0.7, 0.4], seeds=[0] * 3))
    assert torch.equal(grey.sample(classes=[3], msp=[0.7], seeds=[0, 1]), grey.sample(classes=3, msp=0.7, seeds=[0, 1]))
    assert torch.equal(grey.sample(classes=[1, 2]), grey.sample(classes=[1, 2], seeds=[0, 0]))
    assert grey.requests(None, [1, 0.5], 13) == [Request(13, 3, 1.0), Request(13, 3, 0.5)]
    assert grey.requests(torch.tensor(3), np.array(0.5), torch.tensor(4)) == [Request(4, 3, 0.5)]
    assert len(grey.sample(classes=3, msp=0.7, seeds=[])) == 0
    with pytest.raises(ValueError, match="1 classes, 3 levels, 2 seeds do not go together"):
        grey.sample(classes=3, msp=[1, 0.7, 0.4], seeds=[0, 1])


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"batch": -1}, {"truncation_psi": float("nan")}])
def test_numbers_out_of_range(grey, wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        grey.sample(seeds=[0], **wrong)


def test_conditions_that_a_generator_lacks_are_refused(class_only):
    assert class_only.sample(seeds=[0, 1]).shape == (2, 1, 16, 16)
    with pytest.raises(UserError, match="without uncertainty"):
        class_only.sample(msp=0.7, seeds=[0])


def test_header_that_contradicts_the_network(grey):
    info = {**grey.snapshot.info, "num_classes": 4}
    with pytest.raises(UserError, match="does not fit"):
        ConditionalGenerator(Snapshot(grey.G, None, info, Path("x.safetensors")))


def test_to_uint8_inverts_the_scaling():
    levels = torch.arange(256, dtype=torch.float32)
    assert torch.equal(to_uint8(levels / 127.5 - 1).float(), levels)
    assert to_uint8(torch.tensor([-1.5, 1.5])).tolist() == [0, 255]


def test_unknown_device(grey_snapshot):
    with pytest.raises(UserError, match="--device"):
        load_generator(grey_snapshot, device="toaster")


def test_points(points_snapshot):
    points = load_generator(points_snapshot).sample(classes=[0, 1], msp=0.6, seeds=[0, 1])
    assert points.shape == (2, 2)


@pytest.mark.parametrize("draws", [None, 6])
def test_a_search_brings_the_answers_nearer_whatever_the_company(noisy, grey, draws):
    classifier = grey.snapshot.classifier
    generator = ConditionalGenerator(replace(noisy.snapshot, classifier=classifier))
    wanted = generator.requests([0] * 12, [0.5] * 12, range(12))

    def answers(**more):
        items = torch.cat([made.items for made in generator.batches(wanted, noise_mode="random", **more)])
        rounded = to_uint8(items).float() / 127.5 - 1
        return items, torch.tensor([answer.u for answer in generator.answers(rounded, wanted)])

    plain, before = answers()
    if draws is not None:
        assert answers(search=Search(0.01, 1))[0].equal(plain)
    searched, after = answers(search=Search(0.01, draws))
    distance, gap = (before - 0.5).abs(), (after - 0.5).abs()
    assert (gap <= distance + 1e-6).all()
    assert gap.sum() < distance.sum()
    near = distance <= 0.01
    assert torch.equal(searched[near], plain[near])
    alone, _ = answers(search=Search(0.01, draws), batch=5)
    torch.testing.assert_close(alone, searched, atol=1e-5, rtol=0)
    assert torch.equal(answers(search=Search(1.0, draws))[0], plain)


def test_searching_needs_a_classifier_and_a_level(class_only):
    with pytest.raises(UserError, match=r"--within: .* without uncertainty"):
        class_only.sample(classes=[0], seeds=[1], within=0.1)


def test_the_snapshot_says_how_often_reals_are_named_right(grey):
    info = {**grey.snapshot.info, "agreement": {"levels": [0.4, 0.9], "shares": [0.5, 1.0]}}
    generator = ConditionalGenerator(replace(grey.snapshot, info=info))
    asked = torch.tensor([0.2, 0.65]), torch.tensor([7, 0])
    assert generator.search(0.1, 3).agreement(*asked).tolist() == pytest.approx([0.5, 0.75])
    two = {"levels": [0.4, 0.9], "shares": [[0.5, 1.0]] * 2}  # of 10 classes
    for wrong in (
        two,
        {"levels": [0.9, 0.4], "shares": [0.5, 1]},
        {"levels": [0.4]},
        [1],
        {"levels": "a", "shares": "b"},
    ):
        with pytest.raises(UserError, match="class agreement cannot be read"):
            ConditionalGenerator(replace(grey.snapshot, info={**info, "agreement": wrong}))


def test_drawing_latents_needs_a_distance(grey):
    with pytest.raises(UserError, match=r"--draws 3: .* leave '--within off' out"):
        grey.sample(0, 0.5, [1], within=None, draws=3)


def test_levels_are_searched_unless_that_is_switched_off(grey, class_only):
    """Searched until within 0.03 by default, and within 0.05 where latents are drawn; not where nobody can be asked."""
    asked = {"classes": [0, 1, 2, 3], "msp": [0.3, 0.5, 0.7, 0.9], "seeds": [4, 5, 6, 7]}
    assert torch.equal(grey.sample(**asked), grey.sample(**asked, within=0.03))
    assert torch.equal(grey.sample(**asked, draws=6), grey.sample(**asked, within=0.05, draws=6))
    wanted = grey.requests(**asked)
    ws = grey.G.mapping(latents([4, 5, 6, 7], grey.G.z_dim), grey.labels(wanted))
    as_told = grey.G.synthesis(ws, noise_mode="const").clamp(-1, 1)
    torch.testing.assert_close(grey.sample(**asked, within=None), as_told, atol=1e-5, rtol=1e-4)

    def off(images):
        return (grey.classifier.predict(images)[1] - torch.tensor(asked["msp"])).abs()

    assert (off(grey.sample(**asked)) <= off(as_told) + 1e-5).all()
    assert off(grey.sample(**asked)).sum() < off(as_told).sum() - 0.1
    assert class_only.search("auto") is None
    mute = ConditionalGenerator(replace(grey.snapshot, classifier=None))
    torch.testing.assert_close(mute.sample(**asked), as_told, atol=1e-5, rtol=1e-4)


def test_the_caller_s_autocast_changes_no_image(grey):
    asked = {"classes": [1, 2], "msp": 0.6, "seeds": [3, 4], "truncation_psi": 0.7}
    with torch.autocast("cpu", torch.bfloat16):
        images = grey.sample(**asked)
    assert torch.equal(images, grey.sample(**asked))


def test_numpy_s_whole_numbers_are_whole_numbers(grey):
    one = grey.sample(classes=3, msp=0.7, seeds=5)
    assert torch.equal(grey.sample(classes=np.int64(3), msp=0.7, seeds=np.int64(5)), one)


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({"within": -1.0}, "--within: must be a finite number of at least 0, found -1.0"),
        ({"within": float("nan")}, "--within: must be a finite number of at least 0, found nan"),
        ({"within": 0.05, "draws": 0}, "--draws: must be at least 1, found 0"),
    ],
)
def test_searches_that_make_no_sense_are_refused(grey, more, wanted):
    with pytest.raises(UserError, match=wanted):
        grey.sample(classes=[1], msp=0.7, seeds=[0], **more)


def test_random_noise_is_that_of_the_items_seed_and_another_one_with_another_latent(
    noisy: ConditionalGenerator,
) -> None:
    seeds = [5, 9]
    z, c = latents(seeds, 16), noisy.labels(noisy.requests([0, 1], None, seeds))
    made = noisy.sample([0, 1], seeds=seeds, noise_mode="random")
    for draw, found in ((0, made), (1, noisy._maker(z, seeds, 1.0, "random")(torch.arange(2), c, 1))):
        ws = noisy.G.mapping(redrawn_latents(z, seeds, draw), c)
        expected = noisy.G.synthesis(ws, noise_mode="random", rng=SeedRng(redrawn(seeds, draw)))
        torch.testing.assert_close(found, expected.clamp(-1, 1).detach())


def test_answers_are_of_as_many_items_as_requests(grey):
    wanted = grey.requests(3, 0.7, [0, 1])
    with pytest.raises(ValueError, match="1 items do not go with 2 requests"):
        grey.answers(grey.sample(3, 0.7, [0]), wanted)


def test_what_was_loaded_in_inference_mode_passes_gradients_on_later(grey_snapshot):
    with torch.inference_mode():
        loaded = load_generator(grey_snapshot, "cpu")
    z = latents([0], 16).requires_grad_(True)
    images = loaded.G.synthesis(loaded.G.mapping(z, loaded.labels(loaded.requests(3, 0.7, [0]))), noise_mode="const")
    (gradient,) = torch.autograd.grad(loaded.classifier.probs(images.float())[0, 3], z)
    assert gradient.abs().max() > 0
