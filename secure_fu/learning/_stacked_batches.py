"""Poisson samples of many models' members, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["StackedBatch", "coins", "stacked_batches", "stream"]

_DRAWS: Final = 2**14  # gaps drawn at a time
_BLOCK: Final = 2**17  # rows of batches laid out at a time, all models of a chunk together


@dataclass(frozen=True, kw_only=True, eq=False)
class StackedBatch:
    """One step's batches of s models, padded to one width b.

    Attributes:
        index: int64 (s, b), rows of the pool. The padding repeats the first record of the model's own batch, so that
            nothing gets near a gradient that is not in it anyway; a model with an empty batch has zeros throughout.
        present: bool (s, b), false for padding.
        idle: bool (s,), true where the batch is empty; None where no batch is.
    """

    index: Tensor
    present: Tensor
    idle: Tensor | None


def stream(seed: int, purpose: int) -> np.random.Generator:
    """One of the independent streams of a seed; for simulated trainings, where it carries no privacy."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose,)))


def coins(
    generator: np.random.Generator, *, size: int, rate: float, steps: int, block: int
) -> Iterator[NDArray[np.int64]]:
    """Toss a coin for each of ``size`` records in each step: heads with probability ``rate``, all independent.

    The gaps between heads are geometric (Devroye 1986, section X.2), so that only heads cost a draw.

    Args:
        rate: in (0, 1].
        block: steps that are given out at a time. What is drawn does not depend on it.

    Yields:
        For each block the numbers (step - first step of the block) * size + record of its heads, ascending.
    """
    total, last = steps * size, -1
    waiting = np.empty(0, dtype=np.int64)
    for first in range(0, steps, block):
        end = min(first + block, steps) * size
        parts = [waiting]
        while last < end - 1:
            # A gap that leads beyond the last coin is cut: else the sum could overflow.
            gaps = np.minimum(generator.geometric(rate, _DRAWS), total + 1)
            parts.append(last + np.cumsum(gaps))
            last = int(parts[-1][-1])
        heads = np.concatenate(parts)
        cut = int(np.searchsorted(heads, end))
        yield heads[:cut] - first * size
        waiting = heads[cut:]


def stacked_batches(
    members: NDArray[np.bool_],
    generators: Sequence[np.random.Generator],
    *,
    rate: float,
    steps: int,
    joined: NDArray[np.integer] | None = None,
) -> Iterator[StackedBatch]:
    """The batches of each step: of each model's members a Poisson sample.

    Args:
        members: (s, n).
        generators: one a model. Coins are tossed for all n records, members or not.
        joined: (n,), steps that are over before a record takes part.
    """
    models, size = members.shape
    block = int(max(1, min(steps, _BLOCK // (1 + models * rate * size))))
    sources = [coins(generator, size=size, rate=rate, steps=steps, block=block) for generator in generators]
    for first in range(0, steps, block):
        length = min(block, steps - first)
        rows, sizes = [], np.zeros((models, length), dtype=np.int64)
        for model, (source, mask) in enumerate(zip(sources, members, strict=True)):
            step, record = np.divmod(next(source), max(1, size))
            kept = mask[record] if joined is None else mask[record] & (joined[record] <= first + step)
            rows.append(record[kept])
            sizes[model] = np.bincount(step[kept], minlength=length)
        yield from _laid_out(np.concatenate(rows), sizes)


def _laid_out(rows: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[StackedBatch]:
    """From rows one after the other, by model and within it by step, and the sizes (s, t) of their t batches."""
    widths = np.maximum(sizes.max(axis=0), 1)
    present = np.arange(widths.max()) < sizes[:, :, None]
    starts = np.cumsum(sizes.ravel()).reshape(sizes.shape) - sizes
    idle = sizes == 0
    padding = np.append(rows, 0)[np.where(idle, len(rows), starts)]
    index = np.broadcast_to(padding[:, :, None], present.shape).copy()
    index[present] = rows
    for step, width in enumerate(widths):
        yield StackedBatch(
            index=torch.from_numpy(index[:, step, :width].copy()),
            present=torch.from_numpy(present[:, step, :width].copy()),
            idle=torch.from_numpy(idle[:, step].copy()) if idle[:, step].any() else None,
        )
