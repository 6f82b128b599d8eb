"""What holds of generators and discriminators beyond the reference's numbers."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch
from torch import nn

from stylegan2_msp.conditioning import make_labels
from stylegan2_msp.networks import Discriminator, Generator, PointDiscriminator, PointGenerator, build_network
from stylegan2_msp.networks.discriminator import MinibatchStdLayer
from stylegan2_msp.networks.precision import Precision, bfloat16_pays, block_precision, use_channels_last
from torch_utils_ext.rng import BatchRng

K = 10
SMALL: dict[str, Any] = {"channel_base": 256, "channel_max": 16}
BF16: dict[str, Any] = {"num_fp16_res": 8, "half_dtype": "bfloat16"}


def _generator(size: int = 16, channels: int = 1, **synthesis: Any) -> Generator:
    torch.manual_seed(0)
    G = Generator(
        8, K + 1, 12, size, channels, mapping_kwargs={"num_layers": 2}, synthesis_kwargs={**SMALL, **synthesis}
    )
    with torch.no_grad():
        for name, parameter in G.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.5)
    return G.eval()


def _discriminator(size: int = 16, channels: int = 1, **kwargs: Any) -> Discriminator:
    torch.manual_seed(0)
    settings = {**SMALL, "mapping_kwargs": {"num_layers": 2}, **kwargs}
    return Discriminator(K + 1, size, channels, **settings).eval()


def _z(n: int) -> torch.Tensor:
    return torch.randn([n, 8], generator=torch.Generator().manual_seed(5))


def _c(n: int) -> torch.Tensor:
    return make_labels([i % K for i in range(n)], torch.linspace(0.3, 1, n), K)


def _points(n: int) -> torch.Tensor:
    return make_labels([i % 2 for i in range(n)], torch.linspace(0.5, 1, n), 2)


@pytest.mark.parametrize("size", [4, 8, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
def test_shapes(architecture: str, channels: int, size: int) -> None:
    G = _generator(size, channels, architecture=architecture)
    D = _discriminator(size, channels, architecture=architecture)
    img = G(_z(4), _c(4))
    assert img.shape == (4, channels, size, size)
    assert img.dtype == torch.float32
    assert D(img, _c(4)).shape == (4, 1)
    assert G.num_ws == 2 * (size.bit_length() - 2)
    assert G.mapping(_z(4), _c(4)).shape == (4, G.num_ws, 12)


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
def test_bfloat16_is_close_to_float32(architecture: str) -> None:
    G = _generator(32, architecture=architecture, **BF16)
    ws = G.mapping(_z(8), _c(8))
    half, full = G.synthesis(ws, noise_mode="const"), G.synthesis(ws, noise_mode="const", force_fp32=True)
    assert half.dtype == torch.float32
    assert (half - full).square().mean().sqrt() < 0.02 * full.std()
    assert not torch.equal(half, full)
    D = _discriminator(32, architecture=architecture, **BF16)
    logits, exact = D(full, _c(8)), D(full, _c(8), force_fp32=True)
    assert (logits - exact).abs().max() < 0.05 * exact.abs().max()


def test_float16_on_a_cpu_is_float32() -> None:
    G = _generator(num_fp16_res=4)
    ws = G.mapping(_z(2), _c(2))
    assert torch.equal(G.synthesis(ws, noise_mode="const"), G.synthesis(ws, noise_mode="const", force_fp32=True))


def test_which_resolutions_are_half() -> None:
    def half(n: int, dtype: str) -> list[int]:
        return [r for r in (4, 8, 16, 32) if block_precision(r, 32, n, dtype, False).half]

    assert half(0, "bfloat16") == []
    assert half(1, "float16") == [32]
    assert half(2, "float16") == [16, 32]
    assert half(9, "float16") == [8, 16, 32]
    assert half(9, "bfloat16") == [4, 8, 16, 32]


@pytest.mark.parametrize("architecture", ["skip", "resnet"])
def test_two_processes_see_the_images_of_one(architecture: str) -> None:
    G = _generator(architecture=architecture).train()
    ws = G.mapping(_z(8), _c(8), skip_w_avg_update=True)
    whole = G.synthesis(ws, rng=BatchRng(7))
    for rank in range(2):
        part = G.synthesis(ws[rank::2], rng=BatchRng(7, rank=rank, world_size=2))
        torch.testing.assert_close(part, whole[rank::2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(G.synthesis(ws, rng=BatchRng(8)), whole)


def test_noise_modes() -> None:
    G = _generator()
    ws = G.mapping(_z(2), _c(2))
    images = {mode: G.synthesis(ws, noise_mode=mode) for mode in ("random", "const", "none")}
    assert torch.equal(images["const"], G.synthesis(ws, noise_mode="const"))
    assert not torch.allclose(images["const"], images["none"])
    assert not torch.allclose(images["random"], G.synthesis(ws, noise_mode="random"))
    silent = Generator(8, K + 1, 12, 16, 1, synthesis_kwargs={**SMALL, "use_noise": False})
    ws = silent.mapping(_z(2), _c(2))
    assert torch.equal(silent.synthesis(ws), silent.synthesis(ws))
    assert not any("noise" in name for name in silent.state_dict())


def test_conv_clamp_bounds_the_features() -> None:
    found: list[float] = []
    G = _generator(conv_clamp=0.1)
    for name, module in G.named_modules():
        if name.endswith(("conv0", "conv1")):
            module.register_forward_hook(lambda module, args, y: found.append(float(y.detach().abs().max())))
    G(_z(2), _c(2))
    assert found
    assert max(found) == pytest.approx(0.1)


def test_the_two_paths_of_a_residual_block_add_up_to_unit_variance() -> None:
    """Each by sqrt(1/2) (Karras 2020, figure 7): without its convolutions a block is the other path alone."""
    G = _generator(architecture="resnet")
    block, x = G.synthesis.b8, torch.randn(2, 16, 4, 4)
    with torch.no_grad():
        block.conv1.weight.zero_()
        block.conv1.noise_strength.zero_()
        y, _ = block(x, None, torch.randn(2, 2, 12))
        torch.testing.assert_close(y, block.skip(x) * 0.5**0.5)


def test_every_parameter_gets_a_gradient() -> None:
    G, D = _generator().train(), _discriminator().train()
    D(G(_z(4), _c(4)), _c(4)).square().sum().backward()
    for network in (G, D):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
@pytest.mark.parametrize("frozen", [0, 1, 3, 5])
def test_frozen_layers_of_the_discriminator(architecture: str, frozen: int) -> None:
    D = _discriminator(architecture=architecture, block_kwargs={"freeze_layers": frozen})
    order = ["fromrgb", "conv0", "conv1", "skip"]
    layers = [f"b{r}.{name}" for r in (16, 8) for name in order if hasattr(D.get_submodule(f"b{r}"), name)]
    trained = {name.rsplit(".", 1)[0] for name, _ in D.named_parameters()}
    assert [name in trained for name in layers] == [i >= frozen for i in range(len(layers))]
    assert D.state_dict().keys() == _discriminator(architecture=architecture).state_dict().keys()


def test_minibatch_std_by_its_definition() -> None:
    x = torch.randn([8, 6, 2, 2], generator=torch.Generator().manual_seed(0))
    y = MinibatchStdLayer(4, 1)(x)
    assert torch.equal(y[:, :6], x)
    for i in range(8):
        group = x[[j for j in range(8) if j % 2 == i % 2]]
        expected = (group.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
        torch.testing.assert_close(y[i, 6], expected.expand(2, 2))
    with pytest.raises(ValueError, match="mbstd_group_size"):
        MinibatchStdLayer(4, 1)(x[:6])


def test_strided_halves_of_a_batch_have_its_logits() -> None:
    D = _discriminator()
    img = torch.randn([8, 1, 16, 16], generator=torch.Generator().manual_seed(0))
    whole = D(img, _c(8))
    halves = [D(img[rank::2], _c(8)[rank::2]) for rank in range(2)]
    torch.testing.assert_close(torch.stack(halves, dim=1).flatten(0, 1), whole, rtol=1e-4, atol=1e-4)


CASES: list[nn.Module] = [
    _generator(architecture="resnet", resample_filter=(1, 2, 1), **BF16),
    _discriminator(block_kwargs={"freeze_layers": 2}, epilogue_kwargs={"mbstd_group_size": 2}),
    PointGenerator(6, 3, 10, 12, 4, mapping_kwargs={"embedding": "linear"}),
    PointDiscriminator(3, 12, 4, mapping_kwargs={"embedding": "linear"}),
]


@pytest.mark.parametrize("network", CASES, ids=lambda network: type(network).__name__)
def test_rebuilt_from_json(network: Any) -> None:
    name = type(network).__name__
    other = build_network(name, json.loads(json.dumps(network.init_kwargs))).eval()
    assert other.init_kwargs == json.loads(json.dumps(network.init_kwargs))
    assert other.state_dict().keys() == network.state_dict().keys()
    other.load_state_dict(network.state_dict())
    network.eval()
    c = _points(4) if name.startswith("Point") else _c(4)
    if name.endswith("Generator"):
        z = torch.randn(4, network.z_dim)
        assert torch.equal(other(z, c, noise_mode="const"), network(z, c, noise_mode="const"))
    else:
        x = torch.randn(4, 2) if name.startswith("Point") else torch.randn(4, 1, 16, 16)
        assert torch.equal(other(x, c), network(x, c))


def test_only_known_networks_are_built() -> None:
    with pytest.raises(ValueError, match="network must be one of"):
        build_network("os.system", {})
    with pytest.raises(ValueError, match="does not take these arguments"):
        build_network("Generator", {"z_dim": 4, "surprise": 1})


@pytest.mark.parametrize("embedding", ["linear", "split", "learned", "film"])
def test_point_networks(embedding: str) -> None:
    torch.manual_seed(0)
    kwargs: dict[str, Any] = {"mapping_kwargs": {"embedding": embedding}}
    G, D = PointGenerator(hidden=16, w_dim=16, **kwargs), PointDiscriminator(hidden=16, **kwargs)
    z = torch.randn(6, 8)
    ws = G.mapping(z, _points(6))
    assert ws.shape == (6, G.num_ws, 16)
    points = G.synthesis(ws, noise_mode="const", force_fp32=True, rng=None)
    assert torch.equal(points, G(z, _points(6)))
    assert points.shape == (6, 2)
    real = points.detach().requires_grad_()
    logits = D(real, _points(6))
    assert logits.shape == (6, 1)
    (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    slope.square().sum().backward()
    assert D.out.weight.grad is not None
    main_path = [m for m in (*G.mapping.layers, *G.synthesis.children()) if type(m).__name__ == "FullyConnectedLayer"]
    assert len(main_path) == 5
    assert not torch.allclose(G(z, _points(6)), G(z, make_labels([0] * 6, 0.5, 2)))


def test_point_networks_split_over_processes() -> None:
    torch.manual_seed(0)
    G, D = PointGenerator(hidden=16), PointDiscriminator(hidden=16)
    z, c = torch.randn(6, 8), _points(6)
    points = G(z, c)
    logits = D(points, c)
    for rank in range(2):
        part = G(z[rank::2], c[rank::2])
        torch.testing.assert_close(part, points[rank::2])
        torch.testing.assert_close(D(part, c[rank::2]), logits[rank::2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _generator(28), "img_resolution must be a power of two"),
        (lambda: _generator(architecture="dense"), "architecture must be one of"),
        (lambda: _generator(half_dtype="float8"), "half_dtype must be one of"),
        (lambda: _generator(num_fp16_res=-1), "num_fp16_res"),
        (lambda: _generator().synthesis(torch.zeros(1, 2, 12)), "ws must have shape"),
        (lambda: _generator()(_z(1), _c(1), noise_mode="loud"), "noise_mode must be one of"),
        (lambda: _discriminator()(torch.zeros(1, 3, 16, 16), _c(1)), "img must have shape"),
        (lambda: PointDiscriminator()(torch.zeros(1, 3), _points(1)), "points must have shape"),
        (lambda: PointGenerator(num_layers=2), "num_layers"),
        (lambda: PointGenerator(mapping_kwargs={"embedding": "tape"}), "embedding must be one of"),
        (lambda: PointGenerator(mapping_kwargs={"u_dim": 4}), "u_dim must lie in"),
    ],
)
def test_wrong_arguments_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("slow", "pays"), [(torch.float32, True), (torch.bfloat16, False)])
def test_bfloat16_pays_where_it_is_quicker(monkeypatch: pytest.MonkeyPatch, slow: torch.dtype, pays: bool) -> None:
    def waiting(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if a.dtype == slow:
            time.sleep(0.05)
        return a

    monkeypatch.setattr(torch.Tensor, "__matmul__", waiting)
    assert bfloat16_pays("cpu") is pays


def test_channels_last_is_for_half_precision_on_accelerators() -> None:
    """On 'meta', which stands for an accelerator here, only half precision changes its memory format."""
    D = Discriminator(3, 16, 1, channel_base=64, channel_max=8, num_fp16_res=2)
    before = [m.precision for m in D.modules() if isinstance(getattr(m, "precision", None), Precision)]
    use_channels_last(D)
    after = [m.precision for m in D.modules() if isinstance(getattr(m, "precision", None), Precision)]
    assert len(after) > 1
    assert not any(p.channels_last for p in before)
    assert all(p.channels_last and p.half == q.half for p, q in zip(after, before, strict=True))
    x = torch.empty(2, 8, 4, 4, device="meta")
    half, full = Precision(torch.float16, channels_last=True), Precision(None, channels_last=True)
    assert half.place(x).is_contiguous(memory_format=torch.channels_last)
    assert full.place(x).is_contiguous()
    assert Precision(torch.float16).place(x).is_contiguous()
