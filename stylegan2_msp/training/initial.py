"""The state that a run begins with: networks, optimizers, order of samples, random numbers, augmentation."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch

from stylegan2_msp.augment import AUGPIPE, AugmentPipe
from stylegan2_msp.config import TrainConfig
from stylegan2_msp.data.dataset import SampleOrder, TrainingSet
from stylegan2_msp.networks import Discriminator, Generator, PointDiscriminator, PointGenerator, build_network
from stylegan2_msp.training.ada import AdaController
from stylegan2_msp.training.checkpoint import TrainState
from stylegan2_msp.training.distributed import World
from torch_utils_ext.rng import BatchRng

_SLOW_NOISE = 0.01  # rate of the strengths of noise, relative to the rest


def initial_state(config: TrainConfig, data: TrainingSet, num_classes: int, world: World) -> TrainState:
    """A fresh state, the same on every process."""
    torch.manual_seed(config.seed)
    G = cast("Generator | PointGenerator", build_network(config.G_name, config.G_kwargs).train())
    D = cast("Discriminator | PointDiscriminator", build_network(config.D_name, config.D_kwargs).train())
    if config.noise_start > 0 and isinstance(G, Generator):
        last = dict(G.named_parameters()).get(f"synthesis.b{G.img_resolution}.conv1.noise_strength")
        if last is not None:  # an imported network may be without noise
            torch.nn.init.constant_(last, config.noise_start)
    G_ema = copy.deepcopy(G).eval().requires_grad_(False)
    for network in (G, D, G_ema):
        network.to(world.device)
    pipe = ada = None
    if config.aug != "noaug":
        pipe = AugmentPipe(**AUGPIPE[config.augpipe]).requires_grad_(False).to(world.device)
        pipe.p.fill_(config.aug_p)
        if config.aug == "ada":
            ada = AdaController(pipe, config.ada_target, config.ada_kimg, config.ada_interval, config.batch)
    flatten = config.flatten if config.condition == "class+msp" else 0.0
    return TrainState(
        G=G,
        D=D,
        G_ema=G_ema,
        opt_G=_adam(G, config, config.pl_interval if config.pl_weight > 0 else None, config.noise_start > 0),
        opt_D=_adam(D, config, config.r1_interval if config.gamma > 0 else None),
        order=SampleOrder(data.labels, num_classes, flatten, config.seed),
        rng=BatchRng(config.seed, world.device, world.rank, world.size),
        pipe=pipe,
        ada=ada,
        pl_mean=torch.zeros((), device=world.device),
    )


def _adam(
    network: torch.nn.Module, config: TrainConfig, interval: int | None, slow_noise: bool = False
) -> torch.optim.Adam:
    """Adam; with lazy regularisation every ``interval`` steps its rate and betas are corrected for the extra steps
    (Karras et al. 2020a, appendix B).

    Adam moves a scalar by up to the whole rate in every step, however small its gradient: a strength of noise can fall
    from 0.1 to 0 in 40 steps, before the styles learn which images want noise. ``slow_noise`` gives them the time.
    """
    ratio = 1.0 if interval is None else interval / (interval + 1)
    beta1, beta2 = (float(beta) ** ratio for beta in config.betas)
    rate = config.lrate * ratio
    groups: list[dict[str, Any]] = [{"params": list(network.parameters())}]
    if slow_noise:
        named = list(network.named_parameters())
        slow = [p for name, p in named if name.endswith("noise_strength")]
        rest = [p for name, p in named if not name.endswith("noise_strength")]
        groups = [{"params": rest}, {"params": slow, "lr": rate * _SLOW_NOISE}]
    on_gpu = next(network.parameters()).is_cuda
    return torch.optim.Adam(groups, lr=rate, betas=(beta1, beta2), eps=1e-8, fused=True, capturable=on_gpu)
