"""Noise on a vector that is about to be published: how close it makes two worlds that would publish different vectors.

Guarantee: let two worlds publish, of vectors at most ``shift`` apart in L2 norm, the vector rounded to the grid step *
Z^d plus a discrete Gaussian on that grid (:func:`noised`). What they publish is (epsilon, delta)-close for the epsilon
of :func:`noised_model_epsilon`. It charges what separates this from the Gaussian mechanism of
:mod:`secure_fu.privacy.gaussian`:

- rounding moves each of the two vectors by at most step sqrt(d) / 2, so they are at most shift + step sqrt(d) apart;
- the noise is that of a rounded Gaussian of variance sigma^2 - step^2 / 12, which is post-processing of a Gaussian, up
  to a total variation that is taken out of delta (:mod:`secure_fu.privacy.discretisation`).

With a step of at most shift / (100 sqrt(d)) (:func:`output_step`) rounding costs 1 %, and the rest is below 1e-12.

Assumes: the two worlds have the same ``sigma`` and ``step``, chosen without looking at the vectors, and a stream whose
words are secret, fresh and uniform. Whoever knows the vector before the noise is not covered: the noise has to be made
where the vector is.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from secure_fu.discrete_gaussian import RandomStream, sample_discrete_gaussian
from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive, positive_integer
from secure_fu.privacy.discretisation import real_epsilon
from secure_fu.privacy.events import SMALLEST_GRID_RATIO, GaussianSumEvent
from secure_fu.privacy.gaussian import composed_shift, gaussian_epsilon

__all__ = ["noised", "noised_model_epsilon", "output_noise", "output_step"]

_FINENESS = 100.0
_LARGEST_RATIO = 2.0**40
_EXACT = 2.0**52  # integers up to here add without error in a float64


def output_step(shift: float, dimension: int) -> float:
    """The largest power of two that is at most shift / (100 sqrt(dimension)): rounding then adds 1 % to the shift.

    Raises:
        ArgumentError: an argument is outside its domain.
    """
    finest = positive("shift", shift) / (_FINENESS * math.sqrt(positive_integer("dimension", dimension)))
    return 2.0 ** math.floor(math.log2(finest))


def output_noise(dimension: int, *, sigma: float, step: float, stream: RandomStream) -> NDArray[np.float64]:
    """Draws a discrete Gaussian on the grid step * Z^d, exactly (:mod:`secure_fu.discrete_gaussian`).

    To be added to a vector of that grid and no other: the sum with any other vector shows in its last bits what was
    added. :func:`noised` does both.

    Args:
        dimension: number of coordinates.
        sigma: standard deviation of each coordinate, in the vector's units.
        step: a power of two, at most sigma / 2 and at least sigma / 2^40.
        stream: fresh stream; the same stream must never serve two releases.

    Returns:
        Shape (dimension,), float64, whole multiples of ``step``. Secret.

    Raises:
        ArgumentError: an argument is outside its domain.
    """
    return _integers(positive_integer("dimension", dimension), sigma, step, stream).astype(np.float64) * step


def noised(vector: NDArray[np.float64], *, sigma: float, step: float, stream: RandomStream) -> NDArray[np.float64]:
    """Rounds a vector to the grid and adds :func:`output_noise`; no error of floating-point numbers enters.

    Args:
        vector: shape (d,), finite, each coordinate below 2^52 steps in absolute value.
        sigma: standard deviation of each coordinate's noise, in the vector's units.
        step: a power of two, at most sigma / 2 and at least sigma / 2^40.
        stream: fresh stream; the same stream must never serve two releases.

    Returns:
        Shape (d,), float64, whole multiples of ``step``.

    Raises:
        ArgumentError: an argument is outside its domain.
    """
    if vector.ndim != 1 or len(vector) == 0:
        raise ArgumentError("vector", f"an array of shape {vector.shape}", "shape (d,), d at least 1")
    noise = _integers(len(vector), sigma, step, stream)
    with np.errstate(over="ignore"):
        rounded = np.rint(vector.astype(np.float64) / step)
    if not bool((np.abs(rounded) < _EXACT).all()):
        raise ArgumentError("vector", "a coordinate that is not finite or too large", "less than 2^52 steps each")
    result: NDArray[np.float64] = (rounded + noise.astype(np.float64)) * step
    return result


def noised_model_epsilon(*shifts: float, sigma: float, step: float, dimension: int, delta: float) -> float:
    """Epsilon between two worlds that publish :func:`noised` vectors, one or several.

    Several are releases in a sequence, each with fresh noise of the same sigma; each shift has to be a bound whatever
    was published before (see :func:`secure_fu.privacy.gaussian.composed_shift`).

    Args:
        shifts: L2 distance at most between the two worlds' vectors, one for each release; 0 where they are the same.
        sigma: standard deviation of each coordinate's noise.
        step: the grid's.
        dimension: number of coordinates.
        delta: between 0 and 1; the discretisation's share is taken out of it.

    Returns:
        Epsilon, ``inf`` where none can be shown at this delta.

    Raises:
        ArgumentError: an argument is outside its domain, or there is no shift.
    """
    if not shifts:
        raise ArgumentError("shifts", shifts, "at least one")
    _check_grid(sigma, step)
    size = positive_integer("dimension", dimension)
    composed_shift(*shifts)  # checks them
    apart = [shift + step * math.sqrt(size) for shift in shifts if shift > 0.0]
    if not apart:
        return gaussian_epsilon(0.0, sigma, delta)
    whole = composed_shift(*apart)
    event = GaussianSumEvent(
        noise_multiplier=sigma / whole, sampling_rate=1.0, grid_ratio=sigma / step, dimension=size, shares=1
    )
    charged = math.sqrt(sigma**2 - step**2 / 12.0)
    return real_epsilon(lambda remaining: gaussian_epsilon(whole, charged, remaining), {event: len(apart)}, delta)


def _check_grid(sigma: float, step: float) -> None:
    if math.frexp(positive("step", step))[0] != 0.5:
        raise ArgumentError("step", step, "a power of two, so that multiples of it are exact")
    ratio = positive("sigma", sigma) / step
    if not SMALLEST_GRID_RATIO <= ratio <= _LARGEST_RATIO:
        raise ArgumentError("sigma", sigma, f"between {SMALLEST_GRID_RATIO} and 2^40 steps of {step}")


def _integers(size: int, sigma: float, step: float, stream: RandomStream) -> NDArray[np.int64]:
    _check_grid(sigma, step)
    return sample_discrete_gaussian((Fraction(sigma) / Fraction(step)) ** 2, size, stream=stream)
