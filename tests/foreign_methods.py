"""A method that somebody else wrote: how it begins, what it plans, what it asks and what it claims are its settings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from secure_fu.privacy import Phase
from secure_fu.training import no_observer, training_task
from secure_fu.unlearning import Certified, CertifiedModel, Exact, Heuristic, Outcome, PlannedRounds, UnlearningMethod
from secure_fu.unlearning.guarantee import NOT_ADAPTIVE

NEWEST = -1


class Claim(StrEnum):
    EXACT = "exact"
    CERTIFIED = "certified"
    MODEL = "model"
    HEURISTIC = "heuristic"


@dataclass(frozen=True, kw_only=True)
class Foreign(UnlearningMethod):
    """Rounds of training, as honest as its settings are.

    Attributes:
        starts: checkpoint that `start_state` names, NEWEST for the original.
        begins: the one that `run` takes; -3 for that of `starts`.
        planned, ran: how many rounds.
        plans_ascent, asks_ascent: whether forgotten units enter them.
        promises, claims: before and after.
        epsilon, units: of what is certified; no units for those asked for.
    """

    starts: int = 0
    begins: int = -3
    planned: int = 2
    ran: int = 2
    plans_ascent: bool = False
    asks_ascent: bool = False
    promises: Claim = Claim.EXACT
    claims: Claim = Claim.EXACT
    epsilon: float = 0.01
    units: int = 0
    retained_rate: float = 0.5

    name: ClassVar[str] = "foreign"
    title: ClassVar[str] = "Foreign"

    def plan(self, deletion):
        return (PlannedRounds.of(deletion, self.planned, forgotten_rate=0.5 if self.plans_ascent else 0.0),)

    def start_state(self, deletion):
        return self._state(deletion, self.starts)

    def _state(self, deletion, place):
        if place >= 0:
            return deletion.checkpoints.load(place)
        return deletion.original.at_rest()

    def guarantee(self, deletion):
        return self._claim(self.promises, deletion)

    def _claim(self, kind, deletion):
        units = self.units or deletion.forgotten_units
        numbers = {"epsilon": self.epsilon, "delta": deletion.delta, "group_size": units, "reason": "it says so"}
        match kind:
            case Claim.EXACT:
                return Exact("it says so", assumptions=(NOT_ADAPTIVE,))
            case Claim.CERTIFIED:
                return Certified(**numbers, assumptions=())
            case Claim.MODEL:
                return CertifiedModel(**numbers, assumptions=(), shift=1.0, output_noise=1.0)
            case _:
                return Heuristic("it says so")

    def client_tasks(self, silo):
        return {self.purpose: training_task(silo)}

    def run(self, sums, deletion, on_round=no_observer):
        state = self.start_state(deletion) if self.begins == -3 else self._state(deletion, self.begins)
        for _ in range(self.ran):
            request = deletion.recipe.request(
                purpose=self.purpose,
                phase=Phase.UNLEARNING,
                model=state.model,
                retained_rate=self.retained_rate,
                forgotten_rate=0.5 if self.asks_ascent else 0.0,
            )
            state = state.step(sums.secure_sum(request), deletion.recipe)
            on_round(state)
        return Outcome(state=state, guarantee=self._claim(self.claims, deletion))
