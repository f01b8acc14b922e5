"""Do the two models together give the deletion away? Inference from the model before and the model after.

Chen et al. 2021 (arXiv 2005.02205). Exact retraining is no defence: what it changes is the deletion. Two games, each
played in every run on units whose parts were drawn at random: forgotten against never seen (in-then-out against
out-then-out: was it in, and did it go?), and forgotten against retained (in-then-out against in-then-in: of those that
were in, who went?). The same number of units is deleted in both worlds of a game.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.audit.deletion.areas import areas, learned_areas, unit_means
from secure_fu.audit.deletion.figures import share_interval
from secure_fu.audit.deletion.likelihood import Parted
from secure_fu.audit.deletion.outputs import Outputs
from secure_fu.privacy import EquivalenceTest, Interval, equivalence_test

__all__ = ["HEADLINE", "Feature", "Game", "PairAttack", "PairFeatures", "pair_attacks", "pair_features"]


class Game(Enum):
    """Whom the forgotten units are to be told from."""

    OUT_THEN_OUT = "out-then-out"
    IN_THEN_IN = "in-then-in"


class Feature(Enum):
    """What an attack looks at; ``learned`` ones are likelihood ratios learned on the other runs."""

    DROP = "drop of confidence"
    LEARNED_DROP = "drop of confidence, learned"
    DISTANCE = "distance of posteriors"
    ALIGNMENT = "gradient alignment"
    LEARNED_ALIGNMENT = "gradient alignment, learned"


HEADLINE: Final = Feature.LEARNED_DROP
"""The attack that stands for its game where one figure is shown: fixed here, whatever the results are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PairFeatures:
    """What tells of the change of the target records from one model to the other, each float64 (R, t).

    Attributes:
        drop: phi before minus phi after.
        distance: L2 distance of the two posteriors.
        alignment: the change of parameters times the record's gradient before, on the scale of its inverse hyperbolic
            sine, for its tails are long; None where models are not looked into.
    """

    drop: NDArray[np.float64]
    distance: NDArray[np.float64]
    alignment: NDArray[np.float64] | None


@dataclass(frozen=True, kw_only=True)
class PairAttack:
    """One attack in one game.

    Attributes:
        game, feature: which.
        auc: mean area over runs; 1/2 where the two models tell nothing.
        retrained: the same for the pair of the model before and the retrained one.
        runs: how many runs.
        test: whether the area is within the margin of 1/2, and whether it differs from it, in either direction.
    """

    game: Game
    feature: Feature
    auc: Interval
    retrained: Interval
    runs: int
    test: EquivalenceTest

    @property
    def name(self) -> str:
        """Game and feature in one string."""
        return f"{self.game.value}: {self.feature.value}"

    def to_json(self) -> dict[str, object]:
        """Every number of it."""
        return {
            "game": self.game.value,
            "feature": self.feature.value,
            "auc": self.auc.to_json(),
            "retrained": self.retrained.to_json(),
            "runs": self.runs,
            "margin": self.test.margin,
            "equivalent": self.test.equivalent,
            "p_equivalent": self.test.p_value,
            "p_different": self.test.p_different,
        }


def pair_features(before: Outputs, after: Outputs, alignment: NDArray[np.float64] | None) -> PairFeatures:
    """Features of a pair of models from their outputs, and from alignments as they come, (R, t)."""
    scaled = None
    if alignment is not None:
        scale = float(np.median(np.abs(alignment)))
        scaled = np.arcsinh(alignment / scale) if scale > 0.0 else alignment
    return PairFeatures(
        drop=before.confidence - after.confidence,
        distance=np.sqrt(((before.posteriors - after.posteriors) ** 2).sum(axis=2)),
        alignment=scaled,
    )


def pair_attacks(
    features: PairFeatures,
    reference: PairFeatures,
    games: Mapping[Game, Parted],
    *,
    margin: float,
    level: float,
) -> tuple[PairAttack, ...]:
    """Every attack in every game.

    Args:
        features: of the method's pairs.
        reference: of the pairs with the retrained models.
        games: the two sides of each game, forgotten inside.
        margin: distance from 1/2 within which an area counts as nothing.
        level: of intervals and tests.
    """
    attacks = []
    for game, parted in games.items():
        of_reference = _areas_of(reference, parted)
        for feature, values in _areas_of(features, parted).items():
            attacks.append(
                PairAttack(
                    game=game,
                    feature=feature,
                    auc=share_interval(values, level=level),
                    retrained=share_interval(of_reference[feature], level=level),
                    runs=len(values),
                    test=equivalence_test(values - 0.5, margin=margin, level=level),
                )
            )
    return tuple(attacks)


def _areas_of(features: PairFeatures, parted: Parted) -> dict[Feature, NDArray[np.float64]]:
    def plain(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return areas(unit_means(values, parted.units), parted)

    def learned(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return learned_areas(values, parted, [values])[0]

    result = {
        Feature.DROP: plain(features.drop),
        Feature.LEARNED_DROP: learned(features.drop),
        Feature.DISTANCE: plain(features.distance),
    }
    if features.alignment is not None:
        result[Feature.ALIGNMENT] = plain(features.alignment)
        result[Feature.LEARNED_ALIGNMENT] = learned(features.alignment)
    return result
