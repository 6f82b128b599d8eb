"""The presets that depend on resolution and batch, by the family's published examples."""

from __future__ import annotations

import pytest

from stylegan2_msp.presets import PRESETS, resolve_preset


@pytest.mark.parametrize(
    ("res", "processes", "batch", "gamma", "ema", "lrate", "channel_base"),
    [
        (1024, 8, 32, 6.5536, 10, 0.002, 32768),
        (512, 8, 64, 0.8192, 20, 0.0025, 32768),
        (256, 1, 16, 0.8192, 5, 0.0025, 16384),
        (32, 1, 32, 0.0064, 10, 0.0025, 16384),
    ],
)
def test_auto(res: int, processes: int, batch: int, gamma: float, ema: float, lrate: float, channel_base: int) -> None:
    """Karras et al. 2020b, appendix C: gamma = 0.0002 res^2 / batch, a half-life of 10 kimg for a batch of 32."""
    found = resolve_preset(PRESETS["auto"], res, processes)
    assert (found.batch, found.mbstd) == (batch, 4)
    assert (found.gamma, found.ema) == pytest.approx((gamma, ema))
    assert (found.lrate, found.channel_base, found.map, found.ramp) == (lrate, channel_base, 2, 0.05)
