"""Ranges of single options of training, and the defaults of those that make the condition hold."""

from __future__ import annotations

import math
from typing import Any

from stylegan2_msp.augment import AUGPIPE
from stylegan2_msp.errors import UserError


def condition_terms(given: dict[str, Any], guided: bool, kind: str, u_size: int) -> dict[str, Any]:
    """Values of the options that make the uncertainty hold; where it is no condition, all of them are off.

    Args:
        given: options of the command line, by name.
        guided: whether the uncertainty is a condition.
        kind: of the data, 'images' or 'points'.
        u_size: numbers of uncertainty in a label.

    Raises:
        UserError: an option does not go with the data.
    """
    weight = 2.0 if given.get("consistency") is None else given["consistency"]
    defaults = {
        "consistency": weight,
        "consistency_kimg": 20.0,
        "consistency_ramp": 0.0,
        "consistency_uniform": 0.0,
        "consistency_share": 0.5,
        "consistency_class": 2 * weight if u_size == 1 else 0.0,  # a smaller one cannot lead G past lower levels
        "consistency_augment": 0.0,
        "consistency_witness": 0.15 * weight if kind == "images" and u_size == 1 else 0.0,
        "label_noise": 0.0,
        "vicinal": 0.0,
        "flatten": 0.5,
        "sharpness": kind == "images",
        "diversity": 4.0 if kind == "images" else 0.0,
    }
    terms = {name: value if given.get(name) is None else given[name] for name, value in defaults.items()}
    if not guided:
        for name in defaults:
            if given.get(name):
                raise UserError(f"--{name.replace('_', '-')}: needs the MSP; add --cond-msp=1 or leave it out")
        weights = ("consistency", "consistency_uniform", "consistency_class", "consistency_witness", "diversity")
        off = (*weights, "label_noise", "vicinal", "flatten")
        return terms | dict.fromkeys(off, 0.0) | {"sharpness": False}
    if terms["sharpness"] and kind == "points":
        raise UserError("--sharpness: 2-D points have none; leave it out")
    if terms["consistency_augment"] and kind == "points":
        raise UserError("--consistency-augment: 2-D points have no augmentation; leave it out")
    if terms["consistency_witness"] and kind == "points":
        raise UserError("--consistency-witness: is for images, the data are 2-D points; leave it out")
    if terms["consistency_witness"] and u_size > 1:
        raise UserError("--consistency-witness: needs one number of uncertainty, the data have softmax vectors")
    if terms["consistency_class"] and u_size > 1:
        raise UserError("--consistency-class: softmax vectors say which class is answered; leave it out")
    if terms["vicinal"] and u_size > 1:
        raise UserError("--vicinal: needs one number of uncertainty per sample, the data have softmax vectors")
    return terms


def check_choices(given: dict[str, Any]) -> None:
    """Ranges of single options, one line each.

    Raises:
        UserError: an option lies outside its range.
    """
    ranges = {
        "p": (0, 1),
        "target": (0, 1),
        "gamma": (0, None),
        "kimg": (0.001, None),
        "snap": (1, None),
        "subset": (1, None),
        "flatten": (0, 1),
        "consistency": (0, None),
        "consistency_kimg": (0, None),
        "consistency_ramp": (0, None),
        "consistency_uniform": (0, None),
        "consistency_share": (0, 4),
        "consistency_class": (0, None),
        "consistency_augment": (0, 1),
        "consistency_witness": (0, None),
        "label_noise": (0, 1),
        "vicinal": (0, 1),
        "diversity": (0, None),
        "freezed": (0, None),
        "seed": (0, 2**32 - 1),
        "batch_gpu": (1, None),
        "lrate": (0, None),
        "tick": (0, None),
        "z_dim": (3, None),
    }
    for option, (low, high) in ranges.items():
        value = given.get(option)
        if value in (None, "auto"):
            continue
        if not low <= value < math.inf or (high is not None and value > high):
            bound = "finite" if value == math.inf else f"at least {low}" if high is None else f"in [{low}, {high}]"
            raise UserError(f"--{option.replace('_', '-')}: must be {bound}, found {value}")
    if given.get("augpipe") is not None and given["augpipe"] not in AUGPIPE:
        raise UserError(f"--augpipe: must be one of {', '.join(AUGPIPE)}, found {given['augpipe']}")
