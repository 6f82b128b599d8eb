"""Adaptive discriminator augmentation, one family of transforms per file."""

from stylegan2_msp.augment.pipe import AugmentPipe
from stylegan2_msp.augment.presets import AUGPIPE

__all__ = ["AUGPIPE", "AugmentPipe"]
