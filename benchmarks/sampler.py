"""Exact discrete Gaussian samples a second on one core, at sigmas from 10 to 1e6, from the stream that clients use."""

from __future__ import annotations

import statistics
from fractions import Fraction

from harness import arguments, report, timed

from secure_fu.crypto import SecureStream
from secure_fu.discrete_gaussian import sample_discrete_gaussian


def main() -> None:
    options = arguments(__doc__)
    size, repetitions = (100_000, 3) if options.quick else (4_000_000, 7)
    figures: dict[str, object] = {}
    for sigma in (10, 30, 100, 1_000, 10_000, 100_000, 1_000_000):
        first = _seconds(sigma, 1)
        rates = [size / _seconds(sigma, size) / 1e6 for _ in range(repetitions)]
        figures[f"sigma {sigma}"] = {
            "million samples a second, median": statistics.median(rates),
            "least": min(rates),
            "first call, ms": 1e3 * first,
        }
    report(options, figures)


def _seconds(sigma: int, size: int) -> float:
    variance = Fraction(sigma) ** 2
    return timed(lambda: sample_discrete_gaussian(variance, size, stream=SecureStream()))[0]


if __name__ == "__main__":
    main()
