"""The Gaussian mechanism's exact epsilon, and the noise that it takes.

Guarantee: two worlds whose vectors differ by at most ``shift`` in L2 norm, to each of which Gaussian noise of standard
deviation ``sigma`` is added in every coordinate, are (epsilon, delta)-close if and only if

    Phi(m / 2 - epsilon / m) - e^epsilon Phi(-m / 2 - epsilon / m) <= delta,      m = shift / sigma

(Balle and Wang 2018, arXiv 1805.06530, theorem 8). With u = epsilon / m - m / 2 and Mills' ratio R(x) = Phi(-x) /
phi(x) the left side is phi(u) (R(u) - R(u + m)), which neither overflows nor cancels for large epsilon.

Results are rounded to the safe side by a relative 1e-9, more than the arithmetic's error (the tests compare with 60
digits).

Assumes noise of real numbers. :mod:`secure_fu.privacy.output_noise` says what a grid costs.
"""

from __future__ import annotations

import math

from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import erfcx, ndtr

from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive, probability

__all__ = ["composed_shift", "gaussian_epsilon", "gaussian_sigma", "largest_shift"]

_SAFETY = 1e-9
_SMALL_RATIO = 1e-2  # below it the difference of Mills' ratios is integrated, for it would lose digits
_LARGEST_RATIO = 1e9


def gaussian_epsilon(shift: float, sigma: float, delta: float) -> float:
    """The smallest epsilon of one Gaussian release.

    Args:
        shift: L2 distance of the two worlds' vectors at most, at least 0.
        sigma: standard deviation of the noise in each coordinate, in the unit of ``shift``, above 0.
        delta: between 0 and 1.

    Returns:
        Epsilon; 0.0 for a shift of 0, and where delta alone covers it.

    Raises:
        ArgumentError: an argument is outside its domain, or the shift above 1e9 sigma.
    """
    ratio = _distance("shift", shift) / positive("sigma", sigma)
    probability("delta", delta)
    if ratio > _LARGEST_RATIO:
        raise ArgumentError("shift", shift, f"at most {_LARGEST_RATIO:g} sigma")
    # At a ratio of less than delta the total variation, ratio / sqrt(2 pi) at most, is below delta.
    if ratio <= delta or _log_delta(-ratio / 2.0, ratio) <= math.log(delta):
        return 0.0
    # delta(u) <= Phi(-u) <= exp(-u^2 / 2) / 2
    highest = math.sqrt(2.0 * math.log(1.0 / delta))
    u = float(brentq(lambda u: _log_delta(u, ratio) - math.log(delta), -ratio / 2.0, highest, xtol=1e-14, rtol=1e-14))
    # u + ratio / 2 = epsilon / ratio may be a small difference: its error is that of u.
    return (ratio * (u + ratio / 2.0) + ratio * (abs(u) + ratio) * 1e-13) * (1.0 + _SAFETY)


def largest_shift(sigma: float, epsilon: float, delta: float) -> float:
    """The largest shift that noise ``sigma`` makes (epsilon, delta)-close; the unit is that of ``sigma``.

    Raises:
        ArgumentError: an argument is outside its domain.
    """
    return positive("sigma", sigma) * _largest_ratio(epsilon, delta)


def gaussian_sigma(shift: float, epsilon: float, delta: float) -> float:
    """The smallest noise that makes a shift (epsilon, delta)-close; 0.0 for a shift of 0.

    Raises:
        ArgumentError: an argument is outside its domain.
    """
    return _distance("shift", shift) / _largest_ratio(epsilon, delta)


def composed_shift(*shifts: float) -> float:
    """The shift of several releases with the same sigma: the root of the sum of squares.

    Releases with shifts d_1, d_2, ... at noise sigma are together exactly one release with this shift: joint noise is
    one Gaussian in the product space. It holds for adaptive releases too, as long as each d_i bounds the distance
    whatever the earlier ones were (Dong, Roth, Su 2022, arXiv 1905.02383, corollary 3.3). Releases with noise sigma_i
    are put at one sigma by the shifts d_i sigma / sigma_i.

    Raises:
        ArgumentError: a shift is negative or not finite.
    """
    return math.hypot(*(_distance("shifts", shift) for shift in shifts))


def _distance(argument: str, value: object) -> float:
    """Return ``value`` as a float; it must be a finite number of at least 0."""
    return 0.0 if value == 0.0 and not isinstance(value, bool) else positive(argument, value)


def _largest_ratio(epsilon: float, delta: float) -> float:
    """The largest shift over sigma at (epsilon, delta)."""
    positive("epsilon", epsilon)
    probability("delta", delta)
    highest = math.sqrt(2.0 * math.log(1.0 / delta))
    # The ratio at which u is ``highest``, where delta(u) is already below delta.
    low = 2.0 * epsilon / (highest + math.sqrt(highest**2 + 2.0 * epsilon))

    def excess(ratio: float) -> float:
        return _log_delta(epsilon / ratio - ratio / 2.0, ratio) - math.log(delta)

    high = 2.0 * low
    while excess(high) <= 0.0:
        low, high = high, 2.0 * high
        if high > _LARGEST_RATIO:
            raise ArgumentError("epsilon", epsilon, f"an epsilon that a shift of {_LARGEST_RATIO:g} sigma exceeds")
    return float(brentq(excess, low, high, xtol=1e-300, rtol=1e-13)) * (1.0 - _SAFETY)


def _mills(x: float) -> float:
    return math.sqrt(math.pi / 2.0) * float(erfcx(x / math.sqrt(2.0)))


def _log_delta(u: float, ratio: float) -> float:
    """Logarithm of the smallest delta, for epsilon = ratio (u + ratio / 2)."""
    log_density = -(u**2) / 2.0 - 0.5 * math.log(2.0 * math.pi)
    if u < -1.0 and ratio >= _SMALL_RATIO:
        # R(u) would overflow. Delta is of the order of 1, so nothing cancels.
        return math.log(float(ndtr(-u)) - math.exp(log_density) * _mills(u + ratio))
    if ratio >= _SMALL_RATIO:
        return log_density + math.log(_mills(u) - _mills(u + ratio))

    def slope(t: float) -> float:
        x = u + ratio * t
        return 1.0 - x * _mills(x)  # -R'(x)

    return log_density + math.log(ratio) + math.log(quad(slope, 0.0, 1.0, epsabs=0.0, epsrel=1e-12)[0])
