"""Orthogonal wavelet filters (Daubechies' symlets), lowpass."""

from __future__ import annotations

from math import sqrt

# Four taps, in closed form; sum sqrt(2).
SYM2 = tuple(k / (4 * sqrt(2)) for k in (1 - sqrt(3), 3 - sqrt(3), 3 + sqrt(3), 1 + sqrt(3)))

# Twelve taps, six vanishing moments; sum sqrt(2).
SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057),
    *(-0.048311742585633, 0.4910559419267466, 0.787641141030194),
    *(0.3379294217276218, -0.07263752278646252, -0.021060292512300564),
    *(0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
