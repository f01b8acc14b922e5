"""Builds `result.json`, schema `secure-fu/result/1`, as a simulation goes on."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np

from secure_fu.audit import MembershipAudit
from secure_fu.config import SimulationConfig
from secure_fu.evaluation import Evaluator, Measurement
from secure_fu.federation import ORIGINAL, Federation, Unlearned
from secure_fu.privacy import Confidentiality, EpsilonEntry, Interval
from secure_fu.protocol import RoundTraffic
from secure_fu.report import SCHEMA
from secure_fu.scenario import Scenario
from secure_fu.training import TrainingState
from secure_fu.unlearning import Certified

__all__ = ["ResultBuilder", "software_versions"]

_RETRAINED = "retrained"
_PACKAGES = ("secure-fu", "torch", "opacus", "tenseal", "numpy", "dp-accounting", "cryptography")
_TRUST = {
    "kahe": (
        "Nobody holds a key that opens an upload. Every client encrypts under a key of its own and shares it among the "
        "committee, which votes on one list of clients and opens only the sum over that list. The server may deviate "
        "at will and pool all it knows with {corrupt} of the {members} members and {colluders} of the clients of a sum."
    ),
    "bfv": (
        "Nobody but the key-holder can open ciphertexts, and it is not the server. Server, key-holder and clients are "
        "assumed to follow the protocol and not to pool what they see (honest but curious): the key-holder cannot "
        "check that what it opens is the sum over the clients listed."
    ),
    "plain": "None. Uploads are not encrypted; this scheme exists to compare speed and results.",
}
_HISTOGRAM_BINS = 24


class ResultBuilder:
    """Collects rows, curves and traffic of one simulation."""

    def __init__(
        self,
        *,
        config: SimulationConfig,
        scenario: Scenario,
        federation: Federation,
        evaluator: Evaluator,
        insecure_deterministic: bool,
    ) -> None:
        self._config = config
        self._scenario = scenario
        self._federation = federation
        self._evaluator = evaluator
        self._insecure: list[str] = []
        if federation.scheme_name == "plain":
            self._insecure.append("--scheme plain: uploads are not encrypted; the server sees every contribution")
        if insecure_deterministic:
            self._insecure.append(
                "--insecure-deterministic: noise and sampling follow from the seed; they hide nothing"
            )
        self._created = datetime.now(UTC)
        self._rows: list[dict[str, Any]] = []
        self._refused: list[dict[str, str]] = []
        self._measured: dict[str, Measurement] = {}
        self._curves: dict[str, list[dict[str, Any]]] = {}
        self._traffic: list[dict[str, Any]] = []
        self._timing: dict[str, float] = {}

    def add_point(self, row: str, done: int, test_accuracy: float, backdoor_success: float | None) -> None:
        """One point of a row's curve, after `done` of its rounds."""
        point = {"round": done, "test_accuracy": test_accuracy, "backdoor_success": backdoor_success}
        self._curves.setdefault(row, []).append(point)

    def add_original(self, state: TrainingState, *, seconds: float) -> None:
        """The trained model, before anything is forgotten."""
        marks = self._scenario.request.identify_all(self._scenario.clients)
        self._add(
            name=ORIGINAL,
            title="Original",
            guarantee="none",
            guarantee_text="Trained with all data, before the deletion request.",
            certificate=None,
            state=state,
            traffic=self._federation.training_traffic,
            epsilon=self._federation.epsilon(ORIGINAL, marks),
            confidentiality=None,
            predicted_rounds=None,
            seconds=seconds,
        )

    def add_refused(self, row: str, title: str, reason: str) -> None:
        """A method that cannot serve the request."""
        self._refused.append({"name": row, "title": title, "reason": reason})

    def add_unlearned(self, row: str, title: str, unlearned: Unlearned) -> None:
        """The outcome of retraining or of a method."""
        guarantee = unlearned.guarantee
        certificate = None
        if isinstance(guarantee, Certified) and guarantee.epsilon is not None:
            certificate = {
                "epsilon": guarantee.epsilon,
                "delta": guarantee.delta,
                "group_size": guarantee.group_size,
                "view": guarantee.view,
            }
        self._add(
            name=row,
            title=title,
            guarantee=guarantee.kind,
            guarantee_text=guarantee.describe(),
            certificate=certificate,
            state=unlearned.state,
            traffic=unlearned.traffic,
            epsilon=unlearned.epsilon,
            confidentiality=unlearned.confidentiality,
            predicted_rounds=unlearned.cost.rounds,
            seconds=unlearned.seconds,
        )

    def _add(
        self,
        *,
        name: str,
        title: str,
        guarantee: str,
        guarantee_text: str,
        certificate: dict[str, Any] | None,
        state: TrainingState,
        traffic: Iterable[RoundTraffic],
        epsilon: Iterable[EpsilonEntry],
        confidentiality: Confidentiality | None,
        predicted_rounds: int | None,
        seconds: float,
    ) -> None:
        rounds = list(traffic)
        measured = self._evaluator.measure(state.model)
        membership = measured.membership
        self._measured[name] = measured
        self._timing[name] = seconds
        self._rows.append(
            {
                "name": name,
                "title": title,
                "guarantee": guarantee,
                "guarantee_text": guarantee_text,
                "certificate": certificate,
                "test_accuracy": measured.test_accuracy,
                "retain_accuracy": measured.retain_accuracy,
                "forget_accuracy": measured.forget_accuracy,
                "forget_loss": measured.forget_loss,
                "membership_auc": _interval(membership.auc),
                "membership_tpr_at_1pct_fpr": _interval(membership.tpr_at_1pct_fpr),
                "membership_auc_distance": None,
                "membership_n": {
                    "members": len(membership.member_scores),
                    "non_members": len(membership.non_member_scores),
                },
                "backdoor_success": measured.backdoor_success,
                "rounds": len(rounds),
                "predicted_rounds": predicted_rounds,
                "seconds": seconds,
                "upload_bytes_per_client": sum(entry.upload_bytes for entry in rounds),
                "epsilon": [entry.to_json() for entry in epsilon],
                "confidentiality": None if confidentiality is None else confidentiality.to_json(),
                "gap_to_retrained": None,
            }
        )
        self._traffic.extend(
            {
                "branch": name,
                "round": index,
                "purpose": entry.purpose,
                "upload_bytes_per_client": entry.upload_bytes,
                "download_bytes_per_client": entry.download_bytes,
                "uploads": entry.uploads,
            }
            for index, entry in enumerate(rounds)
        )

    def to_dict(self, *, complete: bool) -> dict[str, object]:
        """The result as it stands.

        Args:
            complete: whether every row is there.
        """
        config, plan, policy = self._config, self._federation.plan, self._federation.policy
        scheme_name = self._federation.scheme_name
        seconds = (datetime.now(UTC) - self._created).total_seconds()
        return {
            "schema": SCHEMA,
            "software": software_versions(),
            "created": self._created.isoformat(timespec="seconds"),
            "complete": complete,
            "insecure": self._insecure,
            "config": config.to_dict(),
            "scenario": self._scenario_dict(),
            "scheme": {
                "name": scheme_name,
                "parameter_set": self._federation.parameter_set,
                "secure": scheme_name != "plain",
                "trust": _TRUST[scheme_name].format(
                    corrupt=policy.terms.corrupt, members=policy.terms.members, colluders=policy.colluders
                ),
            },
            "privacy": {
                "delta": plan.budget.delta,
                "budget_epsilon": plan.budget.epsilon,
                "noise_multiplier": plan.recipe.noise_multiplier,
                "clip_norm": plan.recipe.clip_norm,
                "sampling_rate": plan.recipe.sampling_rate,
                "unit": plan.recipe.unit.value,
                "minimum_cohort": plan.minimum_cohort,
                "colluders": plan.colluders,
                "assured": plan.minimum_cohort - plan.colluders,
                "accountant": f"Renyi filter at order {plan.budget.order:g} (Feldman and Zrnic 2021)",
            },
            "rows": [self._with_distances(row) for row in self._rows],
            "refused": self._refused,
            "curves": {row["name"]: self._curves[row["name"]] for row in self._rows},
            "traffic": {"per_round": self._traffic},
            "timing": {**self._timing, "total": seconds},
            "membership": {row["name"]: _attack(self._measured[row["name"]].membership) for row in self._rows},
        }

    def _with_distances(self, row: dict[str, Any]) -> dict[str, Any]:
        reference = self._measured.get(_RETRAINED)
        if reference is None:
            return row
        measured = self._measured[row["name"]]
        gap = None
        if row["name"] not in (ORIGINAL, _RETRAINED):
            before, after = reference.backdoor_success, measured.backdoor_success
            gap = {
                "test_accuracy": measured.test_accuracy - reference.test_accuracy,
                "forget_accuracy": measured.forget_accuracy - reference.forget_accuracy,
                "forget_loss": measured.forget_loss - reference.forget_loss,
                "backdoor_success": None if before is None or after is None else after - before,
            }
        distance = abs(measured.membership.auc.value - reference.membership.auc.value)
        return {**row, "membership_auc_distance": distance, "gap_to_retrained": gap}

    def _scenario_dict(self) -> dict[str, object]:
        scenario, trigger = self._scenario, self._scenario.trigger
        return {
            "name": self._config.name,
            "description": self._config.description or scenario.dataset,
            "clients": len(scenario.clients),
            "unit": self._federation.recipe.unit.value,
            "dimension": self._federation.model.dimension,
            "model": scenario.model_name,
            "train_records": sum(len(records) for records in scenario.clients.values()),
            "test_records": len(scenario.test),
            "forgotten_records": len(self._evaluator.forgotten),
            "forgotten_clients": list(self._evaluator.forgotten_clients),
            "request": scenario.request.describe(),
            "joined_at_round": self._config.deletion.joined_at or None,
            "backdoor": None
            if trigger is None
            else {"target_label": trigger.target, "description": trigger.description},
        }


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else {"value": interval.value, "low": interval.low, "high": interval.high}


def _attack(audit: MembershipAudit) -> dict[str, object]:
    scores = np.concatenate([audit.member_scores, audit.non_member_scores])
    edges = np.histogram_bin_edges(scores, bins=_HISTOGRAM_BINS)
    return {
        "fpr": audit.roc.false_positive_rates.tolist(),
        "tpr": audit.roc.true_positive_rates.tolist(),
        "tpr_low": audit.roc.low.tolist(),
        "tpr_high": audit.roc.high.tolist(),
        "member_scores_histogram": {
            "edges": edges.tolist(),
            "members": np.histogram(audit.member_scores, edges)[0].tolist(),
            "non_members": np.histogram(audit.non_member_scores, edges)[0].tolist(),
        },
    }


def software_versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on, by name."""
    return {
        "python": platform.python_version(),
        **{name.replace("-", "_"): metadata.version(name) for name in _PACKAGES},
    }
