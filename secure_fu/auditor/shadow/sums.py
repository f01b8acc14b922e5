"""Secure sums without secrecy: the clients' own code and the noise of all shares, in floating point, for shadow runs.

Nothing here is private. There is no encryption, no ledger, and of the policy only its limits on noise and rates; noise
and sampling come from a seeded generator, so that whoever knows the seed sees through them. What a shadow sum has in
common with a released one is its law, which is what an auditor needs to run a procedure many times on data of its own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError, CohortTooSmall, NonFiniteError, PolicyRefusal
from secure_fu.planning import Plan
from secure_fu.privacy import Grid, RotatedGrid, Unit, assured_clients, clip_l2
from secure_fu.protocol import GridKind, LocalTask, ReleasedSum, RoundTerms, SumRequest
from secure_fu.protocol.sums import RandomStream

__all__ = ["SeededWords", "ShadowSums", "SharedTask", "grid_of_sums", "noise_deviation"]

_ATTEMPTS: Final = 3  # as the driver of real rounds makes


class SeededWords:
    """Words of a seeded generator in the place of a client's secret stream. They hide nothing."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def words(self, count: int) -> NDArray[np.uint64]:
        """`count` words, shape (count,)."""
        return self._generator.integers(0, 2**64, count, dtype=np.uint64)


class SharedTask(Protocol):
    """The code of one purpose for several clients at once: each client's own vector, computed together."""

    def contributions(
        self,
        clients: tuple[str, ...],
        model: NDArray[np.float32],
        terms: RoundTerms,
        streams: Mapping[str, RandomStream],
    ) -> NDArray[np.float64]:
        """What the :class:`~secure_fu.protocol.LocalTask` of each client gives: shape (clients, length)."""


def grid_of_sums(
    plan: Plan, *, clip_norm: float, noise_multiplier: float, saturation: float, length: int, clients: int
) -> Grid | RotatedGrid:
    """The grid of a round, as the protocol makes it of the round's header.

    Args:
        clients: invited to the round.
    """
    if plan.grid is GridKind.ROTATED:
        return RotatedGrid.for_sums(
            clip_norm=clip_norm,
            dimension=length,
            clients=clients,
            noise_multiplier=noise_multiplier,
            assured=assured_clients(plan.minimum_cohort, plan.colluders),
            sum_bits=plan.sum_bits,
            unit=plan.recipe.unit,
        )
    return Grid.fine(clip_norm=clip_norm, dimension=length, saturation=saturation, unit=plan.recipe.unit)


def noise_deviation(plan: Plan, *, length: int, clients: int, uploads: int | None = None) -> float:
    """Standard deviation of the noise on each coordinate of a training sum: that of all shares that are in it.

    Args:
        length: coordinates of the sum.
        clients: invited to the round.
        uploads: that are in the sum; all of the invited unless given.
    """
    recipe = plan.recipe
    grid = grid_of_sums(
        plan,
        clip_norm=recipe.clip_norm,
        noise_multiplier=recipe.noise_multiplier,
        saturation=recipe.saturation,
        length=length,
        clients=clients,
    )
    return _deviation(plan, grid, recipe.noise_multiplier, clients if uploads is None else uploads)


def _deviation(plan: Plan, grid: Grid | RotatedGrid, noise_multiplier: float, uploads: int) -> float:
    # Each client's share has the variance (z * sensitivity)^2 / assured.
    assured = assured_clients(plan.minimum_cohort, plan.colluders)
    return noise_multiplier * grid.sensitivity * math.sqrt(uploads / assured)


class ShadowSums:
    """A float replica of the rounds of one branch; fulfils :class:`~secure_fu.protocol.SecureSums`.

    Law:
        The sum over the clients that answer of their clamped contributions, plus Gaussian noise with the standard
        deviation of all their shares, z * sensitivity * sqrt(uploads / assured): for the fine grid the law of a
        released sum up to rounding to a step (of 1 % of the clip norm over root d) and to discrete noise. For the
        rotated grid contributions are rotated and rounded as clients do, and the noise is rounded to the grid.
    Not given:
        Secrecy of any kind; accounting; anything that a policy refuses but too little noise and too high a rate. A
        task that raises ends the run, where a real client would send noise alone: an audit is not to go on after a
        mistake.

    Args:
        tasks: each client's code by purpose.
        plan: noise, grid and cohort.
        cohort: names of the clients to invite to a given round number.
        generator: of all noise and sampling of these rounds. Clients' samples come from streams of their own.
        first_round: number of the first round.
        shared: purposes that are computed for all clients at once, in place of their tasks.
        vanishes: whether an invited client fails to answer, by (round number, client name).
    """

    def __init__(
        self,
        tasks: Mapping[str, Mapping[str, LocalTask]],
        *,
        plan: Plan,
        cohort: Callable[[int], tuple[str, ...]],
        generator: np.random.Generator,
        first_round: int = 0,
        shared: Mapping[str, SharedTask] | None = None,
        vanishes: Callable[[int, str], bool] = lambda _round, _client: False,
    ) -> None:
        self._tasks = {name: dict(own) for name, own in tasks.items()}
        self._plan = plan
        self._cohort = cohort
        self._shared = dict(shared or {})
        self._vanishes = vanishes
        self._next_round = first_round
        names = sorted(self._tasks)
        self._noise, *others = generator.spawn(1 + 2 * len(names))
        self._streams = {name: SeededWords(own) for name, own in zip(names, others[: len(names)], strict=True)}
        self._rounding = {name: SeededWords(own) for name, own in zip(names, others[len(names) :], strict=True)}
        self._grids: dict[tuple[float, float, float, int, int], Grid | RotatedGrid] = {}
        self._fullest = 0.0

    @property
    def next_round(self) -> int:
        """Number that the next round will have."""
        return self._next_round

    @property
    def fullest(self) -> float:
        """Largest coordinate of any client's contribution so far over the saturation: above 1, it was clamped."""
        return self._fullest

    def secure_sum(self, request: SumRequest) -> ReleasedSum:
        """One round; see :class:`~secure_fu.protocol.SecureSums`.

        Raises:
            CohortTooSmall: fewer clients answered than the minimum cohort, three times in a row.
            PolicyRefusal: the round asks for less noise, or a higher rate, than clients accept.
            ArgumentError: a client has no task for the purpose, or its contribution is of another shape.
            NonFiniteError: a contribution is not finite.
        """
        self._check(request)
        for _ in range(_ATTEMPTS):
            number = self._next_round
            self._next_round += 1
            invited = self._cohort(number)
            answering = tuple(name for name in invited if not self._vanishes(number, name))
            if len(answering) >= self._plan.minimum_cohort:
                return self._released(request, number, invited, answering)
        raise CohortTooSmall(
            f"round {number} has {len(answering)} of {len(invited)} clients; expected at least "
            f"{self._plan.minimum_cohort}"
        )

    def _check(self, request: SumRequest) -> None:
        least, largest = self._plan.least_noise_multiplier, self._plan.largest_sampling_rate
        if request.noise_multiplier < least:
            raise PolicyRefusal(f"noise_multiplier is {request.noise_multiplier!r}; clients accept at least {least!r}")
        rate = max(request.retained_rate, request.forgotten_rate)
        if rate > largest:
            raise PolicyRefusal(f"a sampling rate is {rate!r}; clients accept at most {largest!r}")

    def _released(
        self, request: SumRequest, number: int, invited: tuple[str, ...], answering: tuple[str, ...]
    ) -> ReleasedSum:
        model = request.model.vector
        terms = RoundTerms(
            purpose=request.purpose,
            round_number=number,
            unit=request.unit,
            clip_norm=request.clip_norm,
            retained_rate=request.retained_rate,
            forgotten_rate=request.forgotten_rate,
            settings=request.settings,
            length=len(model) if request.length is None else request.length,
        )
        grid = self._grid(request, terms.length, len(invited))
        values = self._total(grid, number, answering, self._contributions(answering, model, terms), request.saturation)
        values += self._noise.standard_normal(terms.length) * _deviation(
            self._plan, grid, request.noise_multiplier, len(answering)
        )
        if isinstance(grid, RotatedGrid):
            values = grid.decode(np.rint(values / grid.step).astype(np.int64), seed=_seed(number))
        return ReleasedSum(
            values=values,
            purpose=request.purpose,
            round_number=number,
            participants=answering,
            transcript=bytes(32),
        )

    def _contributions(
        self, clients: tuple[str, ...], model: NDArray[np.float32], terms: RoundTerms
    ) -> list[NDArray[np.float64]]:
        shared = self._shared.get(terms.purpose)
        if shared is not None:
            made = list(shared.contributions(clients, model, terms, self._streams))
        else:
            for name in clients:
                if terms.purpose not in self._tasks[name]:
                    raise ArgumentError("purpose", terms.purpose, f"one that client {name!r} has a task for")
            made = [
                self._tasks[name][terms.purpose].contribution(model, terms, self._streams[name]) for name in clients
            ]
        for name, vector in zip(clients, made, strict=True):
            if vector.shape != (terms.length,):
                raise ArgumentError(f"contribution of {name!r}", f"of shape {vector.shape}", f"shape ({terms.length},)")
        return made

    def _total(
        self,
        grid: Grid | RotatedGrid,
        number: int,
        clients: tuple[str, ...],
        contributions: list[NDArray[np.float64]],
        saturation: float,
    ) -> NDArray[np.float64]:
        """Sum of the contributions as clients bound them; on the rotated grid still rotated."""
        total = np.zeros(len(contributions[0]))
        for name, vector in zip(clients, contributions, strict=True):
            if not np.isfinite(vector).all():
                raise NonFiniteError(f"the contribution of client {name!r} has coordinates that are not finite")
            bounded = clip_l2(vector, grid.clip_norm) if grid.unit is Unit.CLIENT else vector
            if isinstance(grid, RotatedGrid):
                total += grid.step * grid.encode(bounded, seed=_seed(number), stream=self._rounding[name])
                continue
            fullest = float(np.abs(bounded).max()) / saturation
            self._fullest = max(self._fullest, fullest)
            total += np.clip(bounded, -saturation, saturation) if fullest > 1.0 else bounded
        return total

    def _grid(self, request: SumRequest, length: int, clients: int) -> Grid | RotatedGrid:
        key = (request.clip_norm, request.noise_multiplier, request.saturation, length, clients)
        if key not in self._grids:
            self._grids[key] = grid_of_sums(
                self._plan,
                clip_norm=request.clip_norm,
                noise_multiplier=request.noise_multiplier,
                saturation=request.saturation,
                length=length,
                clients=clients,
            )
        return self._grids[key]


def _seed(number: int) -> bytes:
    """Public bytes in the place of a header's digest."""
    return hashlib.sha256(f"shadow round {number}".encode()).digest()
