"""Eraser: train anew in fewer rounds, each unit's step as long as it once was and in the direction of now.

After FedEraser (Liu, Ma, Yang, Liu, IWQoS 2021). There the server keeps every client's updates; here each client keeps
its own history, the server none, and the calibration is made by each unit on its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError
from secure_fu.learning.calibrated import calibrated_sum
from secure_fu.privacy import Phase, Unit, clip_l2
from secure_fu.protocol import LocalTask, RoundTerms, SecureSums
from secure_fu.protocol.sums import RandomStream
from secure_fu.training import OnRound, Silo, TrainingState, clipped_gradients, no_observer, sample_units
from secure_fu.training.tasks import check_client_rates, own_update
from secure_fu.unlearning.guarantee import Heuristic
from secure_fu.unlearning.method import Deletion, Outcome, PlannedRounds, UnlearningMethod

__all__ = ["Eraser"]


class _EraserTask:
    """A client's code: the sum over retained units of what each contributes now, as long as it was at an old model.

    Formal guarantees:
        A unit contributes at most the clip norm C, whatever the ratio and whatever the history holds: its size then is
        clipped to C, and the ratio is its own, a function of its own records (and updates) and of released models.
        Public factors that clients shared could be as large; a ratio of sums over units would let one unit move the
        others. Forgotten records enter nothing, at any rate.

        Records and groups: units are sampled secretly now, and their size then is computed again from the model of
        then, whether or not they were sampled then. So each round is a fresh Poisson sample that the accounting
        amplifies; with the samples of then, a unit would be in all of these rounds or none together.

    Edge cases:
        A client without the round in its history, for it joined later, contributes as in training.
    """

    def __init__(self, silo: Silo) -> None:
        self._silo = silo
        self._history = silo.checked_history()

    def contribution(self, model: NDArray[np.float32], terms: RoundTerms, stream: RandomStream) -> NDArray[np.float64]:
        """See :class:`~secure_fu.protocol.LocalTask`.

        Raises:
            ArgumentError: a rate that the unit cannot have, a setting out of its domain, a model of another length.
            DataError: no group column for the group unit.
            HistoryError: a file of the history has become damaged.
        """
        check_client_rates(terms)
        digest, ratio_limit = _settings(terms)
        if model.shape != (self._silo.model.dimension,):
            raise ArgumentError("model", f"of shape {model.shape}", f"shape ({self._silo.model.dimension},)")
        if terms.unit is Unit.CLIENT:
            return self._of_client(model, terms, digest, ratio_limit)
        silo = self._silo
        sampled = sample_units(silo.records, terms.unit, terms.retained_rate, stream) & ~silo.forgotten
        chosen = silo.records.subset(sampled)
        if self._history.find(digest) is None:
            total = clipped_gradients(silo, model, chosen, terms)
        else:
            total = calibrated_sum(
                silo.gradients,
                self._history.archive.get(digest).astype(np.float64),
                model.astype(np.float64),
                chosen,
                clip_norm=terms.clip_norm,
                ratio_limit=ratio_limit,
                by_group=terms.unit is Unit.GROUP,
            )
        silo.remember_sample(terms.round_number, model, sampled)
        return total

    def _of_client(
        self, model: NDArray[np.float32], terms: RoundTerms, digest: bytes, ratio_limit: float
    ) -> NDArray[np.float64]:
        silo = self._silo
        update = own_update(silo, model, terms)
        if update is None:
            return np.zeros(silo.model.dimension)
        entry = self._history.find(digest)
        length = float(np.linalg.norm(update))
        if entry is not None and entry.update is not None and length > 0.0:
            then = float(np.linalg.norm(clip_l2(entry.update.astype(np.float64), terms.clip_norm)))
            update = clip_l2(update * min(then / length, ratio_limit), terms.clip_norm)
        silo.remember_update(terms.round_number, model, update)
        return -update


def _settings(terms: RoundTerms) -> tuple[bytes, float]:
    model, ratio_limit = terms.settings.get("old_model"), terms.settings.get("ratio_limit")
    try:
        digest = bytes.fromhex(model) if isinstance(model, str) else b""
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise ArgumentError("settings.old_model", model, "the SHA-256 of a model, in hexadecimal")
    if isinstance(ratio_limit, (bool, str)) or ratio_limit is None or not 0.0 < ratio_limit <= 1e100:
        raise ArgumentError("settings.ratio_limit", ratio_limit, "a positive number of at most 1e100")
    return digest, float(ratio_limit)


@dataclass(frozen=True, kw_only=True)
class Eraser(UnlearningMethod):
    """Train anew from the public start, one round for several of the old, with the sizes of then.

    Each round names the model that an old round began from, of those that the server keeps as checkpoints; a client
    finds its own part in that round by the model's hash, which no aborted round and no deletion makes ambiguous.
    Rounds are spread evenly over the old ones, and each takes the newest checkpoint up to its place.

    Attributes:
        interval: old rounds for each new one.
        length: rounds; 0 for one for each `interval` of the old.
        rate_factor: the learning rate over that of training, to make up for fewer rounds.
        ratio_limit: bound on a unit's size then over its size now; keeps short gradients from being blown up.

    Raises:
        ArgumentError: a setting is out of its domain.
    """

    interval: int = 4
    length: int = 0
    rate_factor: float = 3.0
    ratio_limit: float = 2.0

    name: ClassVar[str] = "eraser"
    title: ClassVar[str] = "Eraser (FedEraser)"
    needs_history: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.interval < 1:
            raise ArgumentError("interval", self.interval, "at least 1 round")
        if self.length < 0:
            raise ArgumentError("length", self.length, "at least 1 round, or 0 for one for each interval")
        for name in ("rate_factor", "ratio_limit"):
            if not 0.0 < getattr(self, name) <= 1e100:
                raise ArgumentError(name, getattr(self, name), "a positive number of at most 1e100")

    def plan(self, deletion: Deletion) -> tuple[PlannedRounds, ...]:
        """Rounds of training that no forgotten unit enters."""
        return (PlannedRounds.of(deletion, self.most_rounds(deletion.rounds), forgotten_rate=0.0),)

    def most_rounds(self, trained: int) -> int:
        """The `length` set, or one for each `interval`."""
        return self.length or max(1, -(-trained // self.interval))

    def start_state(self, deletion: Deletion) -> TrainingState:
        """The public start."""
        return deletion.checkpoints.load(0)

    def guarantee(self, deletion: Deletion) -> Heuristic:
        """No more than what the rounds do, in words."""
        rounds = self.rounds(deletion)
        return Heuristic(
            f"{rounds} rounds from the public start, without the data; how long each unit's step is was learnt by "
            "models that knew the data"
        )

    def client_tasks(self, silo: Silo) -> Mapping[str, LocalTask]:
        """See :meth:`~secure_fu.unlearning.UnlearningMethod.client_tasks`.

        Raises:
            HistoryError: the client kept no history, whether it has something to forget or not; or it is damaged.
        """
        return {self.purpose: _EraserTask(silo)}

    def run(self, sums: SecureSums, deletion: Deletion, on_round: OnRound = no_observer) -> Outcome:
        """See :meth:`UnlearningMethod.run`.

        Raises:
            CheckpointError: a checkpoint is missing or corrupt; nothing was asked of any client.
        """
        count = self.rounds(deletion)
        kept = deletion.checkpoints.rounds
        # A model on which no round began has no part in any history.
        places = [min(index * deletion.rounds // count, max(deletion.rounds - 1, 0)) for index in range(count)]
        newest = [max(rounds for rounds in kept if rounds <= place) for place in places]
        digests = {rounds: deletion.checkpoints.load(rounds).model.digest for rounds in newest}
        # The new rounds stand in the place of those that were trained.
        state = replace(self.start_state(deletion), rounds=deletion.rounds)
        for rounds in newest:
            request = deletion.recipe.request(
                purpose=self.purpose,
                phase=Phase.UNLEARNING,
                model=state.model,
                forgotten_rate=0.0,
                settings={"old_model": digests[rounds].hex(), "ratio_limit": self.ratio_limit},
            )
            released = sums.secure_sum(request)
            state = state.step(released, deletion.recipe, rate_factor=self.rate_factor, training=False)
            on_round(state)
        return Outcome(state=state, guarantee=self.guarantee(deletion))
