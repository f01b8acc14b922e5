"""The membership part of an audit: shadow models for a released model, and what `audit.json` says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from secure_fu.audit import AttackResult, MembershipAudit, membership_audit, shadow_models
from secure_fu.auditor.shadow_cast import seed_of
from secure_fu.auditor.stacked_recipe import joined_steps, pooled_records, stacked_training
from secure_fu.learning import FlatModel, Records, train_stacked
from secure_fu.planning import Plan
from secure_fu.privacy import Interval, RocCurve
from secure_fu.scenario import Scenario

__all__ = ["audit_membership", "fresh_target", "membership_figures", "membership_scores"]

_BINS: Final = 24


def fresh_target(scenario: Scenario, plan: Plan, *, seed: int) -> NDArray[np.float64]:
    """A model as the federation would release one, shape (d,), where there is no run to take it from.

    Raises:
        ArgumentError: the unit is not the record.
    """
    model = FlatModel(scenario.module)
    everybody = pooled_records(scenario.clients)
    vectors = train_stacked(
        model,
        everybody,
        np.ones((1, len(everybody)), dtype=np.bool_),
        training=stacked_training(plan, model, clients=len(scenario.clients), joins=scenario.joins),
        start=model.vector(),
        seeds=[seed_of(f"target/{seed}")],
        joined=joined_steps(scenario.clients, scenario.joins),
    )
    target: NDArray[np.float64] = vectors[0].astype(np.float64)
    return target


def audit_membership(
    scenario: Scenario,
    plan: Plan,
    target: NDArray[np.float64],
    *,
    shadows: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> MembershipAudit:
    """Attack the model that a federation released, with shadow models that were trained as it was.

    Members are all records of all clients, non-members those held out: the two were parted by lot, so that nothing but
    membership can tell them apart, however the clients divide the former. Shadow models are trained on random halves of
    both together, all of them from the first round on, with divisor and noise scaled to their number: a step then moves
    them as far, and as noisily, as it moved the target. Records that joined late are in fewer of the target's rounds
    than of theirs; that costs power and no validity.

    Args:
        scenario: of the federation; with the records as they were before any trigger, which held-out records lack.
        plan: its plan, for the record unit.
        target: the released parameters, shape (d,).
        shadows: how many, even.
        seed: of the shadow models.
        progress: told (models done, all models).

    Raises:
        ArgumentError: the unit is not the record, or too few shadow models.
    """
    model = FlatModel(scenario.module)
    members = pooled_records(scenario.clients)
    pool = Records(
        torch.cat([members.features, scenario.test.features]), torch.cat([members.labels, scenario.test.labels])
    )
    training = stacked_training(plan, model, clients=len(scenario.clients), joins=scenario.joins)
    share = 0.5 * len(pool) / len(members)
    model.load(target)
    return membership_audit(
        model.module,
        members=members,
        non_members=scenario.test,
        shadows=shadow_models(
            FlatModel(scenario.module),
            pool,
            count=shadows,
            training=replace(training, divisor=share * training.divisor, noise=share * training.noise),
            seed=seed,
            progress=progress,
        ),
    )


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
