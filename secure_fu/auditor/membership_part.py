"""The membership part of an audit: shadow models for a released model, and what `audit.json` says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secure_fu.audit import AttackResult, MembershipAudit, Outcome, Verdict, membership_audit, shadow_models
from secure_fu.auditor.shadow.cast import seed_of
from secure_fu.auditor.shadow.stacked_recipe import pooled_records, stacked_training
from secure_fu.learning import FlatModel, Records, StackedTraining, train_stacked
from secure_fu.planning import Plan
from secure_fu.privacy import Interval, RocCurve
from secure_fu.scenario import Scenario

__all__ = ["audit_membership", "membership_figures", "membership_scores"]

_BINS: Final = 24
_CONTROL_LEVEL: Final = 0.01


def audit_membership(
    scenario: Scenario,
    plan: Plan,
    target: NDArray[np.float64] | None,
    *,
    shadows: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> MembershipAudit:
    """Attack the model that a federation released, with shadow models that were trained as it was.

    Members are all records of all clients, non-members those held out. Where nothing was released, the two are parted
    anew by lot, and a target is trained on the former: then nothing but membership can tell them apart, whatever files
    they came in. A released model has its members; where the held-out records are of another law, such as those of
    another file, that looks like membership. So a control is trained on one half of the members: if it tells the other
    half from the held-out records, at 1 %, the audit is invalid.

    Shadow models are trained on random halves of all records, all of them from the first round on, with divisor and
    noise scaled to their number: a step then moves them as far, and as noisily, as it moved the target. Records that
    joined late are in fewer of a released model's rounds than of theirs; that costs power and no validity.

    Args:
        scenario: of the federation; with the records as they were before any trigger, which held-out records lack.
        plan: its plan, for the record unit.
        target: the released parameters, shape (d,); None where there are none.
        shadows: how many, even.
        seed: of the shadow models, the control, and the lot.
        progress: told (models done, all models).

    Raises:
        ArgumentError: the unit is not the record, or too few shadow models.
    """
    everybody, test = pooled_records(scenario.clients), scenario.test
    pool = Records(torch.cat([everybody.features, test.features]), torch.cat([everybody.labels, test.labels]))
    count = len(everybody)
    training = stacked_training(plan, FlatModel(scenario.module), clients=len(scenario.clients), joins=scenario.joins)
    draw = np.random.default_rng(seed_of(f"membership/{seed}"))
    released = target is not None
    if target is None:
        pool = pool.subset(draw.permutation(len(pool)))
        target = _trained(scenario.module, pool.subset(slice(0, count)), training, seed_of(f"target/{seed}"))
    members, held_out = pool.subset(slice(0, count)), pool.subset(slice(count, None))
    models = shadow_models(
        FlatModel(scenario.module),
        pool,
        count=shadows,
        training=_scaled(training, 0.5 * len(pool) / count),
        seed=seed,
        progress=progress,
    )
    audit = membership_audit(_with(scenario.module, target), members=members, non_members=held_out, shadows=models)
    if not released:
        return audit
    order = draw.permutation(count)
    known, unknown = members.subset(order[: count // 2]), members.subset(order[count // 2 :])
    control = _trained(scenario.module, known, _scaled(training, 0.5), seed_of(f"control/{seed}"))
    found = membership_audit(_with(scenario.module, control), members=unknown, non_members=held_out, shadows=models)
    return _checked(audit, found)


def _checked(audit: MembershipAudit, control: MembershipAudit) -> MembershipAudit:
    """The audit, or an invalid one where its control tells records apart that neither of which it knows."""
    adjusted = [p for name, p in control.verdict.figures.items() if name.startswith("p_") and p is not None]
    if audit.verdict.outcome is Outcome.INVALID or min(adjusted, default=1.0) > _CONTROL_LEVEL:
        return audit
    sentence = (
        "A model that was trained without them tells such members from the held-out records as well (AUC "
        f"{control.auc.value:.3f}; {audit.auc.value:.3f} for the model that is audited): the two are not of one law, "
        "and what looks like membership may be that. An audit of the configuration parts records by lot."
    )
    figures = {**audit.verdict.figures, "auc_control": control.auc.value}
    return replace(audit, verdict=Verdict(outcome=Outcome.INVALID, sentence=sentence, figures=figures))


def _scaled(training: StackedTraining, share: float) -> StackedTraining:
    """The same training for so many times the records."""
    return replace(training, divisor=share * training.divisor, noise=share * training.noise)


def _trained(module: nn.Module, records: Records, training: StackedTraining, seed: int) -> NDArray[np.float64]:
    """One model, trained on all of these records from the first round on: shape (d,)."""
    model = FlatModel(module)
    everyone = np.ones((1, len(records)), dtype=np.bool_)
    vectors = train_stacked(model, records, everyone, training=training, start=model.vector(), seeds=[seed])
    vector: NDArray[np.float64] = vectors[0].astype(np.float64)
    return vector


def _with(module: nn.Module, vector: NDArray[np.float64]) -> nn.Module:
    model = FlatModel(module)
    model.load(vector)
    return model.module


def membership_figures(audit: MembershipAudit) -> dict[str, Any]:
    """As `audit.json` carries it."""
    chosen = audit.result
    edges = np.histogram_bin_edges(np.concatenate([chosen.member_scores, chosen.non_member_scores]), bins=_BINS)
    return {
        "attacks": {name: _attack(result) for name, result in audit.attacks.items()},
        "chosen": audit.chosen,
        "members": len(chosen.member_scores),
        "non_members": len(chosen.non_member_scores),
        "shadows": audit.shadows,
        "most_exposed": [
            {
                "record": entry.record,
                "score": entry.score,
                "member": True,
                "false_positive_rate": entry.false_positive_rate,
            }
            for entry in audit.most_exposed
        ],
        "histogram": {
            "edges": edges.tolist(),
            "members": np.histogram(chosen.member_scores, edges)[0].tolist(),
            "non_members": np.histogram(chosen.non_member_scores, edges)[0].tolist(),
        },
        "warnings": list(audit.warnings),
        "verdict": audit.verdict.to_json(),
    }


def membership_scores(audit: MembershipAudit) -> dict[str, NDArray[np.float64]]:
    """As `scores.npz` carries them; `--scores` reads the chosen attack's again."""
    arrays = {"member_scores": audit.member_scores, "non_member_scores": audit.non_member_scores}
    for name, result in audit.attacks.items():
        arrays |= {
            f"membership/{name}/member_scores": result.member_scores,
            f"membership/{name}/non_member_scores": result.non_member_scores,
        }
    return arrays


def _attack(result: AttackResult) -> dict[str, Any]:
    return {
        "auc": result.auc.to_json(),
        "p_value": result.p_value,
        "tpr_at_1pct_fpr": _optional(result.tpr_at_1pct_fpr),
        "tpr_at_01pct_fpr": _optional(result.tpr_at_01pct_fpr),
        "roc": _curve(result.roc),
    }


def _optional(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else interval.to_json()


def _curve(roc: RocCurve) -> dict[str, list[float]]:
    return {
        "fpr": roc.false_positive_rates.tolist(),
        "tpr": roc.true_positive_rates.tolist(),
        "low": roc.low.tolist(),
        "high": roc.high.tolist(),
    }
