"""The classifier as the rest of the project uses it: frozen, fed as the generator speaks, able to travel as bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import safetensors.torch
import torch
from torch import nn

from stylegan2_msp.classifiers.builtin import build_builtin
from stylegan2_msp.classifiers.dropout import dropout_masks
from stylegan2_msp.classifiers.foreign import SAVE_PROGRAM, refuse_foreign
from stylegan2_msp.classifiers.program import Program
from stylegan2_msp.classifiers.recalibration import Recalibration, make_recalibration
from stylegan2_msp.classifiers.spec import ClassifierSpec
from stylegan2_msp.errors import UserError
from stylegan2_msp.uncertainty import Measure, make_measure, msp

FILE_FORMAT = "stylegan2-msp classifier"
FILE_VERSION = "1"
_PREFIX = "net."


class FrozenClassifier(nn.Module):
    """A classifier that never changes: eval mode, no parameter wants a gradient, gradients flow to the input only.

    Attributes:
        spec: its whole description.
        num_classes: K.
        kind: 'images' or 'points'.
        img_channels, img_resolution: shape of the images it takes (0 for points).
        measure: the measure of uncertainty that travels with it.
        recalibration: what is done to the network's logits before anything else sees them.

    Example:
        >>> pred, u = FrozenClassifier.from_bytes(data).predict(images)  # images [N, C, H, W] in [-1, 1]
        >>> v = FrozenClassifier.from_bytes(data).uncertainty(images, classes)  # by its own measure
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, spec: ClassifierSpec, net: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.net = net
        self.num_classes = spec.num_classes
        self.kind = spec.data
        self.img_channels = spec.img_channels
        self.img_resolution = spec.img_resolution
        scale, shift = _input_map(spec)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.measure = make_measure(spec.uncertainty, spec.num_classes)
        self.recalibration = make_recalibration(spec.recalibration, spec.num_classes)
        if spec.arch in ("cnn", "residual", "strided"):
            self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.requires_grad_(False)
        for module in self.modules():
            module.training = False
        self._made_as = self.fingerprint()

    def train(self, mode: bool = True) -> FrozenClassifier:
        """Stays in eval mode, also when a module that holds this one is switched."""
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits after recalibration, float32 [N, K], differentiable with respect to ``x``.

        Args:
            x: images [N, C, H, W] in [-1, 1], or points [N, 2] in the data's own coordinates.

        Raises:
            ValueError: ``x`` has another shape.
            TypeError: ``x`` is no tensor of floating-point numbers, uint8 images of [0, 255], say.
        """
        return self.recalibration(self.raw_logits(x))

    def raw_logits(self, x: torch.Tensor) -> torch.Tensor:
        """`forward` without recalibration."""
        self._check_input(x)
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.float32)
            size = self.spec.input_size
            if self.kind == "images" and size != self.img_resolution:
                shrink = size < self.img_resolution
                x = nn.functional.interpolate(x, size=(size, size), mode="bilinear", antialias=shrink)
            if self.kind == "images" and self.spec.input_channels != self.img_channels:
                x = x.expand(-1, self.spec.input_channels, -1, -1)
            out = self.net(x * self.scale + self.shift).to(torch.float32)
        return out if self.spec.output == "logits" else out.clamp_min(torch.finfo(torch.float32).tiny).log()

    def probs(self, x: torch.Tensor) -> torch.Tensor:
        """Class probabilities [N, K], softmax of `forward`."""
        return self(x).softmax(dim=1)

    def predict(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicted class int64 [N] and MSP [N]."""
        probs = self.probs(x)
        return probs.argmax(dim=1), msp(probs)

    def uncertainty(self, x: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """The classifier's own measure of x: [N], or [N, K] for the softmax vector; differentiable like `probs`.

        Args:
            x: as for `forward`.
            classes: class that each should have, int64 [N]; needed where ``measure.of_class``.
        """
        return self.measure(self.measured_logits(x), classes)

    def measured_logits(self, x: torch.Tensor) -> torch.Tensor:
        """What the measure is computed from: `forward`, or [T, N, K] under the T dropout masks that it wants."""
        if not self.measure.draws:
            return self(x)
        passes = []
        for draw in range(self.measure.draws):
            with dropout_masks(self.net, draw):
                passes.append(self(x))
        return torch.stack(passes)

    def answer(self, x: torch.Tensor, classes: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicted class int64 [N] and one number of uncertainty [N] (of a softmax vector that of the class).

        Args:
            x: as for `forward`.
            classes: class that each should have, int64 [N]; by default the predicted one.

        Raises:
            ValueError, TypeError: as `forward`, or not as many classes as samples.
        """
        logits = self(x)
        if classes is not None and classes.shape != logits.shape[:1]:
            raise ValueError(f"{len(logits)} samples need as many classes [N], found {list(classes.shape)}")
        pred = logits.argmax(dim=1)
        wanted = pred if classes is None else classes.to(pred.device)
        u = self.measure(self.measured_logits(x) if self.measure.draws else logits, wanted)
        return pred, self.measure.level(u, wanted)

    def steady_level(self, x: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """The number of uncertainty [N] of the mean logits over each image and its eight neighbours.

        Neighbours are the image shifted by 1/32 of its side (at least a pixel) along either axis or both, edges
        repeated: the same picture to anyone who looks. An answer that does not outlive the shifts is owed to single
        pixels (compare randomised smoothing, Cohen et al. 2019).

        Args:
            x: images as for `forward`.
            classes: class that each should have, int64 [N].
        """
        self._check_input(x)
        side = self.img_resolution
        step = max(1, round(side / 32))
        framed = nn.functional.pad(x, (step,) * 4, mode="replicate")
        places = [(i, j) for i in (0, step, 2 * step) for j in (0, step, 2 * step)]
        logits = [self.measured_logits(framed[:, :, i : i + side, j : j + side]) for i, j in places]
        return self.measure.level(self.measure(torch.stack(logits).mean(dim=0), classes), classes)

    def with_measure(self, measure: Measure) -> FrozenClassifier:
        """The same classifier with another measure."""
        return FrozenClassifier(replace(self.spec, uncertainty=measure.settings()), self.net).to(self.scale.device)

    def with_recalibration(self, recalibration: Recalibration) -> FrozenClassifier:
        """The same classifier recalibrated otherwise."""
        spec = replace(self.spec, recalibration=recalibration.settings())
        return FrozenClassifier(spec, self.net).to(self.scale.device)

    def _check_input(self, x: torch.Tensor) -> None:
        if not torch.is_tensor(x) or not x.is_floating_point():
            found = f"{x.dtype}" if torch.is_tensor(x) else f"a {type(x).__name__}"
            wanted = "images in [-1, 1] (of bytes x / 127.5 - 1)" if self.kind == "images" else "points"
            raise TypeError(f"the classifier takes {wanted} as a tensor of floats, found {found}")
        side = self.img_resolution
        shape = (self.img_channels, side, side) if self.kind == "images" else (self.spec.input_channels,)
        if tuple(x.shape[1:]) != shape:
            sizes = ", ".join(map(str, shape))
            raise ValueError(f"the classifier takes {self.kind} of shape [N, {sizes}], found {list(x.shape)}")

    def fingerprint(self) -> str:
        """SHA-256 over all parameters and buffers, every module's mode and every parameter's requires_grad."""
        digest = hashlib.sha256()
        for name, tensor in (*self.named_parameters(), *self.named_buffers()):
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|{tensor.requires_grad}|".encode())
            digest.update(_raw_bytes(tensor))
        for name, module in self.named_modules():
            digest.update(f"{name}|{module.training}|".encode())
        return digest.hexdigest()

    def verify_frozen(self) -> None:
        """Raises `RuntimeError` when a parameter, a buffer, a mode or a requires_grad differs from when it was made."""
        if any(module.training for module in self.modules()):
            raise RuntimeError("the frozen classifier is in training mode; nothing may call train() on its parts")
        if any(parameter.requires_grad for parameter in self.parameters()):
            raise RuntimeError("the frozen classifier's parameters ask for gradients; nothing may train it")
        if self.fingerprint() != self._made_as:
            raise RuntimeError("the frozen classifier's parameters or buffers have changed since it was loaded")

    def to_bytes(self) -> bytes:
        """The whole classifier as one safetensors file; equal classifiers give equal bytes."""
        tensors = {_PREFIX + name: t.detach().cpu().clone().contiguous() for name, t in self.net.state_dict().items()}
        metadata = {"format": FILE_FORMAT, "version": FILE_VERSION, "spec": self.spec.to_json()}
        return sorted_header(safetensors.torch.save(tensors, metadata))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made by `to_bytes`, since the operators of a program cannot be pickled."""
        return _on_device, (self.to_bytes(), self.scale.device)

    @property
    def sha256(self) -> str:
        """SHA-256 of `to_bytes`, in hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "classifier") -> FrozenClassifier:
        """Rebuilds a classifier from `to_bytes`; nothing in ``data`` is run as code.

        Raises:
            UserError: ``data`` is not such a file, or is damaged; the message begins with ``source``.
        """
        spec = ClassifierSpec.from_json(_read_spec(data, source))
        try:
            state = safetensors.torch.load(data)
        except Exception as error:
            raise UserError(f"{source}: the classifier's file is damaged ({_line(error)}); make it again") from None
        with torch.device("meta"):  # nothing is allocated by what a description claims
            net = build_network(spec)
        wanted = {_PREFIX + name: tensor.dtype for name, tensor in net.state_dict().items()}
        if {name: tensor.dtype for name, tensor in state.items()} != wanted:
            raise UserError(f"{source}: the classifier's weights are not those that it names; make it again")
        try:
            net.load_state_dict({name.removeprefix(_PREFIX): t for name, t in state.items()}, assign=True)
        except RuntimeError as error:
            raise UserError(f"{source}: the classifier's weights do not fit it ({_line(error)})") from None
        return cls(spec, net)


def sorted_header(data: bytes) -> bytes:
    """The same safetensors file with its header's keys in order (the library writes the metadata's at random)."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def _on_device(data: bytes, device: torch.device) -> FrozenClassifier:
    return FrozenClassifier.from_bytes(data).to(device)


def build_network(spec: ClassifierSpec) -> nn.Module:
    """The network that ``spec`` describes, its weights not yet loaded."""
    if spec.arch == "program":
        return Program(spec.arch_args)
    return build_builtin(spec.arch, spec.input_size, spec.input_channels, spec.num_classes, spec.arch_args)


def _input_map(spec: ClassifierSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift from what the generator speaks ([-1, 1] or raw points) to what the network wants."""
    mean = torch.tensor(spec.input_mean, dtype=torch.float64)
    std = torch.tensor(spec.input_std, dtype=torch.float64)
    low, high = spec.input_range if spec.data == "images" else (-1.0, 1.0)
    scale = (high - low) / 2 / std
    shift = ((high + low) / 2 - mean) / std
    shape = (1, -1, 1, 1) if spec.data == "images" else (1, -1)
    return scale.reshape(shape).float(), shift.reshape(shape).float()


def _raw_bytes(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _read_spec(data: bytes, source: str) -> str:
    size = int.from_bytes(data[:8], "little")
    try:
        if not 2 <= size <= len(data) - 8:
            raise ValueError
        header: Any = json.loads(data[8 : 8 + size])
        metadata = header["__metadata__"]
        if metadata["format"] != FILE_FORMAT or not isinstance(metadata["spec"], str):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        refuse_foreign(data, source)
        raise UserError(
            f"{source}: not a classifier's file of this project, or truncated; copy it again, or bring a program: "
            f"{SAVE_PROGRAM}"
        ) from None
    if metadata.get("version") != FILE_VERSION:
        raise UserError(f"{source}: classifier file version {metadata.get('version')!r}, known is {FILE_VERSION}")
    return metadata["spec"]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
