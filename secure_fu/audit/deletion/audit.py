"""The whole audit of a deletion procedure: every figure of every method, and its verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.audit.deletion.after_only import likelihood_attack, loss_attack
from secure_fu.audit.deletion.alignment import alignments
from secure_fu.audit.deletion.class_leakage import ClassLeakage, class_leakage
from secure_fu.audit.deletion.figures import Comparison, compared
from secure_fu.audit.deletion.harm import RetainedHarm, retained_harm
from secure_fu.audit.deletion.inversion import Inversion, inversion
from secure_fu.audit.deletion.judgement import Usefulness, after_only_verdict, pair_verdict
from secure_fu.audit.deletion.likelihood import Parted
from secure_fu.audit.deletion.outputs import Outputs, outputs_of, parted
from secure_fu.audit.deletion.pairs import HEADLINE, Game, PairAttack, PairFeatures, pair_attacks, pair_features
from secure_fu.audit.deletion.performance import (
    FORGET_ACCURACY,
    FORGET_LOSS,
    TEST_ACCURACY,
    forget_excess,
    forget_set_mean,
    forget_set_performance,
)
from secure_fu.audit.deletion.power import Power, power_of_tests
from secure_fu.audit.deletion.relearning import Relearning, relearning, steps_to_relearn
from secure_fu.audit.deletion.runs import NOTHING, DeletionRuns, Part
from secure_fu.audit.verdict import Verdict
from secure_fu.errors import ArgumentError

__all__ = ["DeletionAudit", "DeletionRow", "DeletionTerms", "audit_deletion"]

_FEWEST_RUNS: Final = 8


@dataclass(frozen=True, kw_only=True)
class DeletionTerms:
    """What is fixed before a method's models are looked at.

    Attributes:
        margin: gap of areas under the curve within which a method counts as retraining.
        accuracy_margin: the same for the accuracy on the forgotten, less that on test records.
        utility_margin: how far below retraining's test accuracy a method may be and still be audited.
        level: of intervals and tests, at least 1/2.
        white_box: whether attacks on pairs look at parameters.
        relearning_steps: after how many steps relearning is given up; 0 leaves it out.
        relearning_rate: learning rate of these steps.
        inversion_runs: runs in which a record of a model that is not linear is rebuilt, 0 or at least 2; 0 leaves
            inversion out, for linear models as well.
        weight_decay: of the training, for the inversion of linear models.

    Raises:
        ArgumentError: an attribute is out of its domain.
    """

    margin: float = 0.05
    accuracy_margin: float = 0.02
    utility_margin: float = 0.1
    level: float = 0.95
    white_box: bool = True
    relearning_steps: int = 50
    relearning_rate: float = 0.25
    inversion_runs: int = 8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("margin", "accuracy_margin", "utility_margin"):
            if not 0.0 < getattr(self, name) < 0.5:
                raise ArgumentError(name, getattr(self, name), "a number above 0 and below 0.5")
        if not 0.5 <= self.level < 1.0:
            raise ArgumentError("level", self.level, "a number in [0.5, 1)")
        if self.relearning_steps < 0:
            raise ArgumentError("relearning_steps", self.relearning_steps, "at least 0")
        if not self.relearning_rate > 0.0:
            raise ArgumentError("relearning_rate", self.relearning_rate, "a number above 0")
        if self.inversion_runs < 0 or self.inversion_runs == 1:
            raise ArgumentError("inversion_runs", self.inversion_runs, "0, or at least 2")


@dataclass(frozen=True, kw_only=True)
class DeletionRow:
    """Figures and verdicts of one method.

    Attributes:
        name: of the method.
        after_only: the attacks on the model after: likelihood ratio and loss.
        forget_excess: accuracy on the forgotten less that on records never seen; with the attacks it makes the verdict.
        forget_accuracy, forget_loss: on the forgotten records.
        usefulness: test accuracy, against retraining and chance.
        pair: attacks on the models before and after, both games.
        harm: what the deletion did to the retained.
        class_leakage, inversion, relearning: None where they do not apply or were left out.
        verdict: of the model after, alone.
        pair_verdict: of the models before and after, together.
    """

    name: str
    after_only: tuple[Comparison, ...]
    forget_excess: Comparison
    forget_accuracy: Comparison
    forget_loss: Comparison
    usefulness: Usefulness
    pair: tuple[PairAttack, ...]
    harm: RetainedHarm
    class_leakage: ClassLeakage | None
    inversion: Inversion | None
    relearning: Relearning | None
    verdict: Verdict
    pair_verdict: Verdict

    def to_json(self) -> dict[str, object]:
        """The row as ``audit.json`` carries it; null where a figure was left out."""
        headline = {attack.game.value: attack.to_json() for attack in self.pair if attack.feature is HEADLINE}
        return {
            "name": self.name,
            "after_only": {attack.name: attack.to_json() for attack in self.after_only},
            "forget_set": {
                "excess": self.forget_excess.to_json(),
                "accuracy": self.forget_accuracy.to_json(),
                "loss": self.forget_loss.to_json(),
            },
            "usefulness": self.usefulness.to_json(),
            "pair": {"headline": headline, "attacks": [attack.to_json() for attack in self.pair]},
            "retained_harm": self.harm.to_json(),
            "class_leakage": None if self.class_leakage is None else self.class_leakage.to_json(),
            "inversion": None if self.inversion is None else self.inversion.to_json(),
            "relearning": None if self.relearning is None else self.relearning.to_json(),
            "verdict": self.verdict.to_json(),
            "pair_verdict": self.pair_verdict.to_json(),
        }


@dataclass(frozen=True, kw_only=True)
class DeletionAudit:
    """The audit of all methods.

    Attributes:
        runs, units, forgotten: how many runs, target units, and units forgotten in each run.
        records: target records of all units.
        terms: what was fixed beforehand.
        power: of each test, from the retrained models alone.
        reference: attacks on the pairs of the models before and the retrained ones.
        rows: one a method, doing nothing among them.
    """

    runs: int
    units: int
    forgotten: int
    records: int
    terms: DeletionTerms
    power: tuple[Power, ...]
    reference: tuple[PairAttack, ...]
    rows: tuple[DeletionRow, ...]

    def row(self, name: str) -> DeletionRow:
        """The row of one method.

        Raises:
            ArgumentError: there is none of that name.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise ArgumentError("name", name, f"one of {', '.join(row.name for row in self.rows)}")

    def to_json(self) -> dict[str, object]:
        """The audit as ``audit.json`` carries it."""
        return {
            "runs": self.runs,
            "units": self.units,
            "forgotten": self.forgotten,
            "records": self.records,
            "margin": self.terms.margin,
            "accuracy_margin": self.terms.accuracy_margin,
            "utility_margin": self.terms.utility_margin,
            "level": self.terms.level,
            "power": {one.name: one.to_json() for one in self.power},
            "reference": [attack.to_json() for attack in self.reference],
            "rows": [row.to_json() for row in self.rows],
        }


def audit_deletion(
    runs: DeletionRuns,
    *,
    terms: DeletionTerms | None = None,
    progress: Callable[[str], None] | None = None,
) -> DeletionAudit:
    """Audit every method of these runs against their retrained models.

    Args:
        runs: at least 8 of them.
        terms: margins and level; the defaults where None.
        progress: told what is looked at, for people who wait.

    Raises:
        ArgumentError: too few runs.
    """
    if runs.runs < _FEWEST_RUNS:
        raise ArgumentError("runs", f"{runs.runs} runs", f"at least {_FEWEST_RUNS}: an interval over fewer says little")
    return _Auditor(runs, DeletionTerms() if terms is None else terms, progress or (lambda words: None)).audit()


class _Auditor:
    """What all methods of an audit share: outputs of the reference models, games, the control."""

    def __init__(self, runs: DeletionRuns, terms: DeletionTerms, progress: Callable[[str], None]) -> None:
        self.runs, self.terms, self.progress = runs, terms, progress
        progress("models before and retrained")
        self.before = outputs_of(runs, runs.before)
        self.retrained = outputs_of(runs, runs.retrained)
        self.never = parted(runs, Part.FORGOTTEN, Part.NEVER)
        self.games: dict[Game, Parted] = {
            Game.OUT_THEN_OUT: self.never,
            Game.IN_THEN_IN: parted(runs, Part.FORGOTTEN, Part.RETAINED),
        }
        self.forgotten = runs.record_parts == Part.FORGOTTEN
        self.chance = float(np.bincount(runs.test.labels.numpy()).max() / len(runs.test))
        self.power = power_of_tests(
            self.retrained,
            self.never,
            margin=terms.margin,
            accuracy_margin=terms.accuracy_margin,
            level=terms.level,
        )
        self.reference_features = self._features(self.retrained, runs.retrained)
        self.reference = self._pair(self.reference_features)
        self.original_losses = forget_set_mean(self.before.losses, self.forgotten)
        self.reference_steps = self._steps(runs.retrained) if terms.relearning_steps else None
        self.control = self._tests(self.before)

    def audit(self) -> DeletionAudit:
        runs = self.runs
        return DeletionAudit(
            runs=runs.runs,
            units=runs.unit_count,
            forgotten=runs.forgotten,
            records=len(runs.targets),
            terms=self.terms,
            power=self.power,
            reference=self.reference,
            rows=tuple(self._row(name, vectors) for name, vectors in runs.after.items()),
        )

    def _row(self, name: str, vectors: NDArray[np.float32]) -> DeletionRow:
        self.progress(name)
        terms, level = self.terms, self.terms.level
        after = self.before if name == NOTHING else outputs_of(self.runs, vectors)
        tests = self._tests(after)
        attacks = self._pair(self._features(after, vectors))
        useful = Usefulness(
            accuracy=compared(
                TEST_ACCURACY, after.test_accuracy, self.retrained.test_accuracy, margin=None, level=level
            ),
            chance=self.chance,
            margin=terms.utility_margin,
        )
        relearned = None
        if self.reference_steps is not None:
            steps = self._steps(vectors)
            relearned = relearning(steps, self.reference_steps, longest=terms.relearning_steps, level=level)
        return DeletionRow(
            name=name,
            after_only=tests[:-1],
            forget_excess=tests[-1],
            forget_accuracy=forget_set_performance(
                FORGET_ACCURACY,
                after.correct.astype(np.float64),
                self.retrained.correct.astype(np.float64),
                self.forgotten,
                margin=None,
                level=level,
            ),
            forget_loss=forget_set_performance(
                FORGET_LOSS, after.losses, self.retrained.losses, self.forgotten, margin=None, level=level
            ),
            usefulness=useful,
            pair=attacks,
            harm=retained_harm(
                self.before.confidence,
                after.confidence,
                self.retrained.confidence,
                parted(self.runs, Part.RETAINED, Part.NEVER),
                level=level,
            ),
            class_leakage=class_leakage(self.runs, vectors, classes=after.posteriors.shape[2], level=level),
            inversion=inversion(
                self.runs,
                vectors,
                attempts=terms.inversion_runs,
                weight_decay=terms.weight_decay,
                level=level,
            )
            if terms.inversion_runs
            else None,
            relearning=relearned,
            verdict=after_only_verdict(tests, self.control, useful, self.power, level=level),
            pair_verdict=pair_verdict(attacks, self.reference, useful, level=level),
        )

    def _tests(self, after: Outputs) -> tuple[Comparison, ...]:
        """The figures that the after-only verdict is made of; the last is the excess of accuracy."""
        margin, level = self.terms.margin, self.terms.level
        return (
            likelihood_attack(after.confidence, self.retrained.confidence, self.never, margin=margin, level=level),
            loss_attack(after.losses, self.retrained.losses, self.never, margin=margin, level=level),
            forget_excess(
                after.correct.astype(np.float64),
                self.retrained.correct.astype(np.float64),
                self.forgotten,
                self.runs.record_parts == Part.NEVER,
                margin=self.terms.accuracy_margin,
                level=level,
            ),
        )

    def _features(self, after: Outputs, vectors: NDArray[np.float32]) -> PairFeatures:
        return pair_features(self.before, after, alignments(self.runs, vectors) if self.terms.white_box else None)

    def _pair(self, features: PairFeatures) -> tuple[PairAttack, ...]:
        return pair_attacks(
            features, self.reference_features, self.games, margin=self.terms.margin, level=self.terms.level
        )

    def _steps(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        return steps_to_relearn(
            self.runs,
            vectors,
            self.original_losses,
            longest=self.terms.relearning_steps,
            learning_rate=self.terms.relearning_rate,
        )
