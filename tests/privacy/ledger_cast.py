"""The cast of the tests of the ledger: its budget, its rounds, and a training."""

from __future__ import annotations

from secure_fu.privacy.accounting import GaussianSumEvent
from secure_fu.privacy.budget import Budget
from secure_fu.privacy.epsilon import Phase, Subject
from secure_fu.privacy.units import Unit

DELTA = 1e-5
SILOS = tuple(f"silo-{i:02d}" for i in range(10))


def event(noise_multiplier: float = 2.43, sampling_rate: float = 0.25) -> GaussianSumEvent:
    return GaussianSumEvent(
        noise_multiplier=noise_multiplier,
        sampling_rate=sampling_rate,
        grid_ratio=noise_multiplier * 4911,
        dimension=2410,
        shares=8,
    )


BUDGET = Budget(epsilon=8.0, delta=DELTA, order=4.0, deletion_reserve=0.5, unit=Unit.RECORD)
ALIKE = {Subject.RETAINED: event(), Subject.FORGOTTEN: event()}


def train(ledger, rounds, *, branch="original", phase=Phase.TRAINING, charges=ALIKE, cohort=SILOS, participants=None):
    """Reserve and commit rounds."""
    for number in rounds:
        reservation = ledger.reserve(
            branch, round_number=number, purpose="train", phase=phase, charges=charges, cohort=cohort
        )
        ledger.commit(reservation, cohort if participants is None else participants)
