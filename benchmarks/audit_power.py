"""How much of the true epsilon each lower bound shows, and how often noise that is too small is found."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from harness import arguments, report
from numpy.typing import NDArray

from secure_fu.audit.registration import likelihood_scores
from secure_fu.privacy import (
    Assumption,
    EpsilonBound,
    ExpectedScores,
    GaussianSumEvent,
    canaries_needed,
    clopper_pearson,
    equivalence_power,
    gaussian_sigma,
    lower_bounds,
    noise_variance_test,
    pld_epsilon,
    register,
    runs_needed,
)

DELTA = 1e-5
CANARIES = 1000
ROUNDS = 100
# Noise multipliers at which ROUNDS rounds at this rate have epsilon 4 at delta 1e-5; the truth is computed below.
SAMPLED = {0.25: 2.88992, 1 / 30: 0.80078}

Floats = NDArray[np.float64]
Coins = NDArray[np.bool_]
Draw = Callable[[np.random.Generator, Coins], Floats]


def runs(
    draw: Draw, expected: ExpectedScores, *, claim: float, canaries: int, repetitions: int
) -> list[tuple[EpsilonBound, ...]]:
    rng = np.random.default_rng(1)
    registered = register(canaries, expected, claim=claim, delta=DELTA)
    found = []
    for _ in range(repetitions):
        coins = rng.random(canaries) < 0.5
        found.append(lower_bounds(draw(rng, coins), coins, delta=DELTA, registered=registered))
    return found


def one_sum(shift: float, noise: float) -> Draw:
    return lambda rng, coins: shift * coins + rng.normal(scale=noise, size=len(coins))


def shown(found: list[tuple[EpsilonBound, ...]], truth: float) -> dict[str, object]:
    """Median and quartiles of bound over truth, by method."""
    return {
        bounds[0].method: {
            "assumption": bounds[0].assumption.name.lower(),
            "of the truth, quartiles": (np.quantile([b.value for b in bounds], (0.25, 0.5, 0.75)) / truth).tolist(),
            "above the truth": float(np.mean([b.value > truth for b in bounds])),
            "largest possible": bounds[0].to_json()["largest"],
        }
        for bounds in zip(*found, strict=True)
    }


def best(figures: dict[str, object], *assumptions: Assumption) -> float:
    names = {assumption.name.lower() for assumption in assumptions}
    return max(row["of the truth, quartiles"][1] for row in figures.values() if row["assumption"] in names)  # type: ignore[index]


def unsampled(epsilon: float, canaries: int, repetitions: int) -> dict[str, object]:
    expected = ExpectedScores.of_claim(epsilon=epsilon, delta=DELTA)
    draw = one_sum(expected.shift, expected.noise)
    return shown(runs(draw, expected, claim=epsilon, canaries=canaries, repetitions=repetitions), epsilon)


def sampled(rate: float, repetitions: int) -> dict[str, object]:
    """Both scores: the sum of a canary's products over rounds, and their likelihood ratio."""
    multiplier = SAMPLED[rate]
    event = GaussianSumEvent(
        noise_multiplier=multiplier, sampling_rate=rate, grid_ratio=1e6, dimension=CANARIES, shares=2
    )
    truth = pld_epsilon({event: ROUNDS}, delta=DELTA)

    def products(rng: np.random.Generator, coins: Coins) -> Floats:
        drawn = rng.random((ROUNDS, len(coins))) < rate
        return drawn * coins + rng.normal(scale=multiplier, size=drawn.shape)

    def ratios(rng: np.random.Generator, coins: Coins) -> Floats:
        return likelihood_scores(products(rng, coins), noise=np.full(ROUNDS, multiplier), rate=rate)

    sums = ExpectedScores(shift=1.0, noise=multiplier * math.sqrt(ROUNDS), rounds=ROUNDS, sampling_rate=rate)
    by_ratio = ExpectedScores.of_claim(epsilon=truth, delta=DELTA)
    sizes = {"claim": truth, "canaries": CANARIES, "repetitions": repetitions}
    ratio_rows = shown(runs(ratios, by_ratio, **sizes), truth)
    return {
        "true epsilon": truth,
        "sum of products": shown(runs(lambda rng, coins: products(rng, coins).sum(axis=0), sums, **sizes), truth),
        "likelihood ratio": {name: ratio_rows[name] for name in ("one run", "f-DP")},
    }


def too_little(claim: float, share: float, repetitions: int) -> dict[str, object]:
    """How often each bound exceeds the claim where the noise is only ``share`` of what it has to be."""
    expected = ExpectedScores.of_claim(epsilon=claim, delta=DELTA)
    draw = one_sum(expected.shift, expected.noise * share)
    found = runs(draw, expected, claim=claim, canaries=CANARIES, repetitions=repetitions)
    return {
        bounds[0].method: clopper_pearson(sum(b.value > claim for b in bounds), repetitions).to_json()
        for bounds in zip(*found, strict=True)
    }


def zero_round(dimension: int, share: float, repetitions: int) -> dict[str, object]:
    rng = np.random.default_rng(2)
    expected = 7.0
    tests = [
        noise_variance_test(rng.normal(scale=share * expected, size=dimension), expected=expected)
        for _ in range(repetitions)
    ]
    return clopper_pearson(sum(test.too_small for test in tests), repetitions).to_json()


def main() -> None:
    options = arguments(__doc__)
    few, many = (20, 200) if options.quick else (400, 2000)
    main_figures = unsampled(4.0, CANARIES, many)
    halved = too_little(1.0, 0.5, many)
    zero = zero_round(5000, 0.95, 5 * many)
    figures: dict[str, object] = {
        "epsilon 4, 1000 canaries": main_figures,
        "targets": {
            "Gaussian-labelled, at least 0.85": best(main_figures, Assumption.GAUSSIAN, Assumption.CENTRED_GAUSSIAN),
            "coins only, at least 0.28": best(main_figures, Assumption.COINS),
            "halved noise at claim 1, mean test, at least 0.95": halved["mean test"],
            "zero round, d 5000, 5 % too small, at least 0.99": zero,
        },
        "noise too small, claim 1": {
            "half": halved,
            "0.8 of it": too_little(1.0, 0.8, few),
        },
        "noise too small, claim 4": {"half": too_little(4.0, 0.5, few), "0.8 of it": too_little(4.0, 0.8, few)},
        "zero round, 5 % too small, by dimension": {
            str(dimension): zero_round(dimension, 0.95, many) for dimension in (500, 1000, 2000)
        },
        "other sizes": {
            f"epsilon {epsilon:g}, {canaries} canaries": unsampled(epsilon, canaries, few)
            for epsilon, canaries in ((1.0, 1000), (8.0, 1000), (4.0, 100), (4.0, 10_000))
        },
        "sampled, 100 rounds, 1000 canaries": {f"rate {rate:.3g}": sampled(rate, few) for rate in SAMPLED},
        "fewest canaries for a perfect attack": {
            f"epsilon {epsilon:g}": canaries_needed(epsilon, delta=DELTA) for epsilon in (1.0, 2.0, 4.0, 8.0)
        },
        "noise multiplier at claim 4": gaussian_sigma(1.0, 4.0, DELTA),
        "equivalence": {
            "power at spread 0.028, margin 0.05, 6 runs": equivalence_power(0.028, 6, margin=0.05),
            "runs for power 0.9 at that spread and margin": runs_needed(0.028, margin=0.05, power=0.9),
            "runs for power 0.9 at spread 0.05": runs_needed(0.05, margin=0.05, power=0.9),
        },
    }
    report(options, figures)


if __name__ == "__main__":
    main()
