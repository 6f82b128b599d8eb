"""What a patched checkout imports first: its modules are altered as they are imported, where torch and others moved on.

`patches/0001-hook.patch` puts `import stylegan2_msp.upstream.hook` at the top of the checkout's packages.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence

# Module of the checkout -> function of `compat` that is called with it as soon as it has been imported.
CHANGES = {
    "torch_utils.misc": "sampler_without_data_source",
    "torch_utils.ops.bias_act": "our_operators",
    "torch_utils.ops.upfirdn2d": "our_operators",
    "torch_utils.ops.conv2d_resample": "our_operators",
    "torch_utils.ops.conv2d_gradfix": "our_operators",
    "torch_utils.ops.grid_sample_gradfix": "our_operators",
    "torch_utils.ops.fma": "our_operators",
    "metrics.metric_utils": "natural_distribution",
    "metrics.perceptual_path_length": "percentiles",
    "metrics.frechet_inception_distance": "matrix_root",
    "metrics.precision_recall": "half_distances",
    "training.training_loop": "training",
    "legacy": "networks_of_ours",
}


class _ChangedLoader(importlib.abc.Loader):
    """Loads a module as ever, then lets `change` alter it."""

    def __init__(self, plain: importlib.abc.Loader, change: Callable[[types.ModuleType], None]) -> None:
        self.plain, self.change = plain, change

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self.plain.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self.plain
        module.__loader__ = self.plain
        self.plain.exec_module(module)
        self.change(module)


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules in `CHANGES` where they would be found anyway."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            change = getattr(importlib.import_module("stylegan2_msp.upstream.compat"), CHANGES[name])
            spec.loader = _ChangedLoader(spec.loader, change)
        return spec


def install() -> None:
    """Puts the finder in place, and `distutils.util.strtobool` where Python (3.12 and newer) has none."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
    if importlib.util.find_spec("distutils") is None:
        package, util = types.ModuleType("distutils"), types.ModuleType("distutils.util")
        package.__path__ = []
        package.util = util  # type: ignore[attr-defined]
        util.strtobool = _truth  # type: ignore[attr-defined]
        sys.modules |= {"distutils": package, "distutils.util": util}


def _truth(text: str) -> int:
    """1 for yes, 0 for no, in the words that distutils knew; ValueError for anything else."""
    for answer, words in enumerate((("n", "no", "f", "false", "off", "0"), ("y", "yes", "t", "true", "on", "1"))):
        if text.lower() in words:
            return answer
    raise ValueError(f"invalid truth value {text!r}")


install()
