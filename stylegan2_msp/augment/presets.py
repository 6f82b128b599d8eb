"""Which families of transforms each value of --augpipe turns on."""

from __future__ import annotations

from typing import Any

_FAMILIES: dict[str, tuple[str, ...]] = {
    "blit": ("xflip", "rotate90", "xint"),
    "geom": ("scale", "rotate", "aniso", "xfrac"),
    "color": ("brightness", "contrast", "lumaflip", "hue", "saturation"),
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
}


def _all_of(*families: str) -> dict[str, Any]:
    return {name: 1.0 for family in families for name in _FAMILIES[family]}


# Keyword arguments of AugmentPipe.
AUGPIPE: dict[str, dict[str, Any]] = {
    "blit":   _all_of("blit"),
    "geom":   _all_of("geom"),
    "color":  _all_of("color"),
    "filter": _all_of("filter"),
    "noise":  _all_of("noise"),
    "cutout": _all_of("cutout"),
    "bg":     _all_of("blit", "geom"),
    "bgc":    _all_of("blit", "geom", "color"),
    "bgcf":   _all_of("blit", "geom", "color", "filter"),
    "bgcfn":  _all_of("blit", "geom", "color", "filter", "noise"),
    "bgcfnc": _all_of("blit", "geom", "color", "filter", "noise", "cutout"),
}  # fmt: skip
