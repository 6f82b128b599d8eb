"""Imports the networks and losses of a stylegan2-ada-pytorch checkout, unedited, for a comparison in the same run."""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.utils.cpp_extension


def load(checkout: Path) -> SimpleNamespace:
    """Modules of the checkout: networks, loss, augment and its operators.

    Raises:
        SystemExit: the folder is no checkout of stylegan2-ada-pytorch.
    """
    if not (checkout / "training" / "networks.py").is_file():
        raise SystemExit(f"--reference {checkout}: no stylegan2-ada-pytorch checkout (training/networks.py is missing)")
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    _let_its_kernels_load()
    warnings.filterwarnings("ignore")  # it warns of every release of PyTorch that it does not know
    modules = {
        name.rsplit(".", 1)[-1]: importlib.import_module(name)
        for name in (
            "training.networks",
            "training.loss",
            "training.augment",
            "torch_utils.misc",
            "torch_utils.ops.bias_act",
            "torch_utils.ops.upfirdn2d",
            "torch_utils.ops.conv2d_resample",
            "torch_utils.ops.conv2d_gradfix",
            "torch_utils.ops.grid_sample_gradfix",
        )
    }
    for name in ("conv2d_gradfix", "grid_sample_gradfix"):
        vars(modules[name])["enabled"] = True  # as its training loop does
    return SimpleNamespace(**modules)


def _let_its_kernels_load() -> None:
    """It imports its compiled kernels by name after PyTorch has loaded them, but recent releases of PyTorch no longer
    enter what they load among the modules: without this it runs on its slow path."""
    load = torch.utils.cpp_extension.load
    if getattr(load, "enters", False):
        return

    @functools.wraps(load)
    def run(name: str, *args: Any, **kwargs: Any) -> Any:
        sys.modules[name] = load(name, *args, **kwargs)
        return sys.modules[name]

    run.enters = True  # type: ignore[attr-defined]
    torch.utils.cpp_extension.load = run


def kernels(modules: SimpleNamespace) -> dict[str, bool]:
    """Whether each of its CUDA kernels is built and used."""
    return {name: getattr(modules, name)._plugin is not None for name in ("bias_act", "upfirdn2d")}


def lost_kernels(modules: SimpleNamespace) -> list[str]:
    """Which of its CUDA kernels it has tried to build in vain: there it runs on its slow path."""
    found = {name: getattr(modules, name) for name in ("bias_act", "upfirdn2d")}
    return [name for name, module in found.items() if getattr(module, "_inited", False) and module._plugin is None]


class ReferenceTrainer:
    """One training step of the checkout's networks, loss and update rule, on one device."""

    def __init__(self, modules: SimpleNamespace, setting: dict[str, Any], device: torch.device) -> None:
        common = {key: setting[key] for key in ("c_dim", "img_resolution", "img_channels")}
        channels = {key: setting[key] for key in ("channel_base", "channel_max", "num_fp16_res", "conv_clamp")}
        networks = modules.networks
        self.G = networks.Generator(
            **common,
            z_dim=setting["z_dim"],
            w_dim=setting["z_dim"],
            mapping_kwargs={"num_layers": setting["map"]},
            synthesis_kwargs=channels,
        )
        self.D = networks.Discriminator(
            **common,
            **channels,
            mapping_kwargs={"num_layers": setting["d_map"]},
            epilogue_kwargs={"mbstd_group_size": setting["mbstd"]},
        )
        for network in (self.G, self.D):
            network.train().requires_grad_(False).to(device)
        self.G_ema = networks.Generator(*self.G.init_args, **self.G.init_kwargs).eval().requires_grad_(False).to(device)
        pipe = None
        if setting["ada_p"]:
            kwargs = {"xflip": 1, "rotate90": 1, "xint": 1, "scale": 1, "rotate": 1, "aniso": 1, "xfrac": 1}
            colour = {"brightness": 1, "contrast": 1, "lumaflip": 1, "hue": 1, "saturation": 1}
            pipe = modules.augment.AugmentPipe(**kwargs, **colour).train().requires_grad_(False).to(device)
            pipe.p.fill_(setting["ada_p"])
        self.loss = modules.loss.StyleGAN2Loss(
            device,
            self.G.mapping,
            self.G.synthesis,
            self.D,
            augment_pipe=pipe,
            style_mixing_prob=setting["style_mixing"],
            r1_gamma=setting["gamma"],
        )
        self.misc, self.setting, self.device = modules.misc, setting, device
        self.opt = {
            name: torch.optim.Adam(module.parameters(), lr=setting["lrate"], betas=(0.0, 0.99), eps=1e-8)
            for name, module in (("G", self.G), ("D", self.D))
        }
        self.iteration = 0

    def phase(self, name: str) -> None:
        """Gradients and update of 'Gmain', 'Greg', 'Dmain' or 'Dreg'."""
        s, device = self.setting, self.device
        module, opt = (self.G, self.opt["G"]) if name[0] == "G" else (self.D, self.opt["D"])
        z = torch.randn([s["batch"], s["z_dim"]], device=device)
        index = torch.randint(len(s["labels"]), [2, s["batch"]], device=device)
        real = s["images"][index[0]].to(torch.float32) / 127.5 - 1
        opt.zero_grad(set_to_none=True)
        module.requires_grad_(True)
        interval = {"Greg": s["pl_interval"], "Dreg": s["r1_interval"]}.get(name, 1)
        self.loss.accumulate_gradients(name, real, s["labels"][index[0]], z, s["labels"][index[1]], True, interval)
        module.requires_grad_(False)
        for param in module.parameters():
            if param.grad is not None:
                self.misc.nan_to_num(param.grad, nan=0, posinf=1e5, neginf=-1e5, out=param.grad)
        opt.step()

    def step(self) -> None:
        """One iteration: the phases that are due, and the averaged weights."""
        s = self.setting
        self.phase("Gmain")
        if s["path_length"] and self.iteration % s["pl_interval"] == 0:
            self.phase("Greg")
        self.phase("Dmain")
        if self.iteration % s["r1_interval"] == 0:
            self.phase("Dreg")
        with torch.no_grad():
            for average, value in zip(self.G_ema.parameters(), self.G.parameters(), strict=True):
                average.copy_(value.lerp(average, 0.99))
            for average, value in zip(self.G_ema.buffers(), self.G.buffers(), strict=True):
                average.copy_(value)
        self.iteration += 1
