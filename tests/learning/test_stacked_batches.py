"""The law of the Poisson samples that stacked models are trained on."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from secure_fu.learning._stacked_batches import coins, stacked_batches, stream

SIZE, STEPS = 40, 3000


def tossed(rate: float, *, seed: int = 7, size: int = SIZE, steps: int = STEPS, block: int = 64) -> NDArray[np.bool_]:
    """All coins as a mask, (steps, size)."""
    mask = np.zeros((steps, size), dtype=np.bool_)
    first = 0
    for heads in coins(stream(seed, 0), size=size, rate=rate, steps=steps, block=block):
        length = min(block, steps - first)
        assert (np.diff(heads) > 0).all()
        assert ((heads >= 0) & (heads < length * size)).all()
        mask[first : first + length].flat[heads] = True
        first += length
    assert first == steps
    return mask


@pytest.mark.parametrize(("rate", "wrong"), [(0.01, 0.013), (0.25, 0.265), (0.6, 0.61)])
def test_every_coin_has_its_rate_and_all_are_independent(rate: float, wrong: float) -> None:
    mask = tossed(rate)
    total = mask.size
    for other, fits in ((rate, True), (wrong, False)):
        z = (mask.sum() - total * other) / np.sqrt(total * other * (1.0 - other))
        assert (abs(z) < 4.5) == fits
    # Of each record, and in each step: binomial spread, as only independent coins of one rate have it.
    for sums, trials in ((mask.sum(axis=0), STEPS), (mask.sum(axis=1), SIZE)):
        spread = ((sums - trials * rate) ** 2).sum() / (trials * rate * (1.0 - rate))
        assert 1e-5 < stats.chi2.sf(spread, len(sums)) < 1.0 - 1e-5
    # Neighbours, of which the gaps were drawn: in the row of records and from step to step.
    for first, second in ((mask[:, :-1], mask[:, 1:]), (mask[:-1], mask[1:]), (mask[:-2], mask[2:])):
        both, pairs = (first & second).sum(), first.size
        assert abs(both - pairs * rate**2) < 5.0 * np.sqrt(pairs * rate**2)


def test_a_sample_of_fixed_size_would_be_noticed() -> None:
    fixed = np.full(STEPS, SIZE // 4)
    spread = ((fixed - SIZE * 0.25) ** 2).sum() / (SIZE * 0.25 * 0.75)
    assert not 1e-5 < stats.chi2.sf(spread, STEPS) < 1.0 - 1e-5


def test_what_is_drawn_does_not_depend_on_how_it_is_laid_out() -> None:
    assert (tossed(0.1, block=1) == tossed(0.1, block=3000)).all()
    assert (tossed(0.1, block=7) == tossed(0.1, block=64)).all()
    assert not (tossed(0.1, seed=8) == tossed(0.1)).all()


def test_edges_of_the_rate() -> None:
    assert tossed(1.0, steps=5).all()
    assert not tossed(1e-300, steps=5).any()
    assert tossed(0.5, size=0, steps=3).shape == (3, 0)
    assert 0 < tossed(1e-4, steps=100_000, size=1, block=100).sum() < 40


def batches(
    members: NDArray[np.bool_], seeds: list[int], *, joined: NDArray[np.int64] | None = None
) -> list[list[set[int]]]:
    found = []
    for batch in stacked_batches(members, [stream(seed, 0) for seed in seeds], rate=0.3, steps=200, joined=joined):
        index, present = batch.index.numpy(), batch.present.numpy()
        own = []
        for rows, kept, mask in zip(index, present, members, strict=True):
            chosen = rows[kept]
            assert len(set(chosen)) == len(chosen)
            assert mask[chosen].all()
            if len(chosen):  # padding is of the model's own batch
                assert set(rows[~kept]) <= set(chosen)
            own.append(set(chosen.tolist()))
        assert (batch.idle is None) == all(own)
        if batch.idle is not None:
            assert batch.idle.tolist() == [not chosen for chosen in own]
        found.append(own)
    return found


def test_batches_are_the_members_among_the_heads() -> None:
    members = np.random.default_rng(0).random((4, SIZE)) < [[0.1], [0.5], [1.0], [0.0]]
    found = batches(members, [3, 4, 3, 5])
    heads = tossed(0.3, seed=3, steps=200)
    for step, own in enumerate(found):
        assert own[0] == set(np.flatnonzero(heads[step] & members[0]))
        assert own[2] == set(np.flatnonzero(heads[step]))  # the same seed: members of both are sampled alike
        assert own[3] == set()
    assert any(own[1] != own[2] & set(np.flatnonzero(members[1])) for own in found)


def test_who_joins_later_is_in_no_batch_before() -> None:
    joined = np.arange(SIZE) * 4
    everybody = np.ones((1, SIZE), dtype=np.bool_)
    found = batches(everybody, [3], joined=joined)
    from_the_start = batches(everybody, [3])
    for step, (own, all_of_them) in enumerate(zip(found, from_the_start, strict=True)):
        assert own[0] == {record for record in all_of_them[0] if joined[record] <= step}
    assert found[0][0] <= {0}
    assert any(SIZE - 1 in own[0] for own in found[4 * (SIZE - 1) :])
