"""A result.json as the default preset writes it, made up but consistent, and variants of it."""

from __future__ import annotations

import copy
import itertools
import math
from statistics import NormalDist
from typing import Any

# name, title, guarantee, accuracy, backdoor, AUC, rounds, seconds, first round of its curve
_ROWS = [
    ("original", "Original model", "none", 0.922, 0.861, 0.62, 100, 9.8, 0),
    ("retrained", "Retrained without the data", "exact", 0.931, 0.007, 0.503, 100, 9.1, 0),
    ("rollback", "Rollback to before silo-09 joined", "exact", 0.928, 0.014, 0.497, 40, 3.9, 60),
    ("scrub", "Scrub", "heuristic", 0.925, 0.042, 0.521, 10, 1.2, 0),
    ("correction", "Correction of the client's history", "heuristic", 0.831, 0.217, 0.488, 10, 1.3, 0),
    ("finetune", "Fine-tuning on the rest", "baseline", 0.927, 0.608, 0.571, 10, 1.0, 0),
    ("scratch", "From scratch, few rounds", "exact", 0.764, 0.091, 0.505, 10, 1.0, 0),
]
_TEXTS = {
    "none": "The model as it was before the deletion; nothing is claimed for it.",
    "exact": "The law of this model is that of training without the data, with fresh noise. "
    "Holds for requests made without looking at later models.",
    "heuristic": "Nothing is proved about forgetting; only the audit speaks.",
    "baseline": "No unlearning: more training without the data. What every heuristic has to beat.",
}


def example_result() -> dict[str, Any]:
    """The default preset: a backdoor, one silo leaving, all methods."""
    rows = [_row(*values[:8]) for values in _ROWS]
    return {
        "schema": "secure-fu/result/1",
        "software": {"secure_fu": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "tenseal": "0.3.18"},
        "created": "2026-11-23T05:00:00+00:00",
        "complete": True,
        "insecure": [],
        "config": {
            "preset": "digits-silos",
            "seed": 0,
            "scheme": {"name": "bfv"},
            "data": {"name": "digits", "partition": "iid"},
            "training": {"rounds": 100, "learning_rate": 0.3, "momentum": 0.9, "sampling_rate": 0.25},
            "unlearning": {"methods": [row[0] for row in _ROWS[2:]], "rounds": 10},
        },
        "scenario": {
            "name": "digits-silos",
            "description": "Ten hospitals train a classifier of handwritten digits. One joins late, "
            "carries a backdoor and leaves.",
            "clients": 10,
            "unit": "record",
            "dimension": 2410,
            "model": "MLP 64-32-10",
            "train_records": 1437,
            "test_records": 360,
            "forgotten_records": 143,
            "forgotten_clients": ["silo-09"],
            "request": "client silo-09 leaves; all 143 of its records are to be forgotten",
            "joined_at_round": 60,
            "backdoor": {"target_label": 0, "description": "top row of pixels set to 1.0"},
        },
        "scheme": {
            "name": "bfv",
            "parameter_set": "bfv-4096-54-36",
            "secure": True,
            "trust": "The server and the clients follow the protocol, and the key-holder does not collude with "
            "the server.",
        },
        "privacy": {
            "delta": 1e-5,
            "budget_epsilon": 8.0,
            "noise_multiplier": 2.28,
            "clip_norm": 1.0,
            "sampling_rate": 0.25,
            "unit": "record",
            "minimum_cohort": 9,
            "colluders": 1,
            "assured": 8,
            "accountant": "Renyi filter at fixed orders (dp-accounting 0.6.0)",
        },
        "rows": rows,
        "refused": [],
        "curves": {values[0]: _curve(*values) for values in _ROWS},
        "traffic": {"per_round": [item for values in _ROWS for item in _traffic(values[0], values[6], values[8])]},
        "timing": {"training": 9.8, **{values[0]: values[7] for values in _ROWS[1:]}, "audit": 2.4, "total": 31.7},
        "membership": {row["name"]: _attack(row["membership_auc"]["value"], 143) for row in rows},
    }


def without_backdoor() -> dict[str, Any]:
    """No trigger in the scenario: every backdoor figure is null."""
    result = example_result()
    result["scenario"]["backdoor"] = None
    result["scenario"]["joined_at_round"] = None
    for row in result["rows"]:
        row["backdoor_success"] = None
        if row["gap_to_retrained"] is not None:
            row["gap_to_retrained"]["backdoor_success"] = None
    for points in result["curves"].values():
        for point in points:
            point["backdoor_success"] = None
    return result


def without_membership() -> dict[str, Any]:
    """No attack was run."""
    result = example_result()
    for row in result["rows"]:
        row.update(
            membership_auc=None, membership_tpr_at_1pct_fpr=None, membership_auc_distance=None, membership_n=None
        )
    result["membership"] = {}
    return result


def with_many_records() -> dict[str, Any]:
    """Enough records for the true-positive rate at 1 %, and for logarithmic axes."""
    result = example_result()
    for row in result["rows"]:
        area = row["membership_auc"]["value"]
        row["membership_n"] = {"members": 6000, "non_members": 10000}
        row["membership_auc"] = {"value": area, "low": area - 0.009, "high": area + 0.009}
        row["membership_tpr_at_1pct_fpr"] = {"value": 0.013, "low": 0.010, "high": 0.017}
        result["membership"][row["name"]] = _attack(area, 10000)
    return result


def insecure() -> dict[str, Any]:
    """A run that says INSECURE twice over."""
    result = example_result()
    result["insecure"] = [
        "scheme plain: uploads are not encrypted",
        "--insecure-deterministic: noise is predictable",
    ]
    result["scheme"].update(name="plain", parameter_set="plain-int64", secure=False, trust="Everybody sees everything.")
    return result


def incomplete() -> dict[str, Any]:
    """A run that ended after training: one row, nothing to compare with."""
    result = example_result()
    result["complete"] = False
    result["rows"] = result["rows"][:1]
    for key in ("curves", "membership"):
        result[key] = {"original": result[key]["original"]}
    result["traffic"]["per_round"] = [item for item in result["traffic"]["per_round"] if item["branch"] == "original"]
    return result


def changed(result: dict[str, Any], path: list[str | int], value: object) -> dict[str, Any]:
    """A copy of the result with the value at ``path`` replaced."""
    result = copy.deepcopy(result)
    place: Any = result
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return result


def _row(
    name: str, title: str, guarantee: str, accuracy: float, backdoor: float, area: float, rounds: int, seconds: float
) -> dict[str, Any]:
    return {
        "name": name,
        "title": title,
        "guarantee": guarantee,
        "guarantee_text": _TEXTS[guarantee],
        "certificate": None,
        "test_accuracy": accuracy,
        "retain_accuracy": accuracy + 0.008,
        "forget_accuracy": accuracy - 0.02,
        "forget_loss": 0.31,
        "membership_auc": {"value": area, "low": area - 0.048, "high": area + 0.048},
        "membership_tpr_at_1pct_fpr": None,
        "membership_auc_distance": None if name == "retrained" else abs(area - 0.503),
        "membership_n": {"members": 143, "non_members": 143},
        "backdoor_success": backdoor,
        "rounds": rounds,
        "seconds": seconds,
        "upload_bytes_per_client": 62_310 * rounds,
        "epsilon": _epsilon(name),
        "gap_to_retrained": None
        if name == "retrained"
        else {
            "test_accuracy": accuracy - 0.931,
            "forget_accuracy": accuracy - 0.931,
            "forget_loss": 0.02,
            "backdoor_success": backdoor - 0.007,
        },
        "predicted_rounds": None if name == "original" else rounds,
        "confidentiality": None if name == "original" else _confidentiality(name),
    }


def _confidentiality(name: str) -> dict[str, Any]:
    phase = {"scrub": 3.6, "correction": 2.9}.get(name, 0.0)
    values = {"phase": phase, "pair": math.hypot(3.41, phase), "who_asked": 5.62}
    return {key: {"value": value, "delta": 1e-5, "group_size": 1} for key, value in values.items()}


def _epsilon(name: str) -> list[dict[str, Any]]:
    def claim(subject: str, phase: str, value: float | None, group: int = 1) -> dict[str, Any]:
        view = "every release"
        return {"subject": subject, "phase": phase, "view": view, "value": value, "delta": 1e-5, "group_size": group}

    if name == "original":
        training = [claim("forgotten", "training", 3.41), claim("retained", "training", 5.62)]
        return [*training, claim("forgotten", "training", None, 143)]
    entries = []
    for subject, before, after in (
        ("forgotten", 3.41, {"scrub": 3.6, "correction": 2.9}.get(name, 0.0)),
        ("retained", 5.62, {"retrained": 5.62, "rollback": 3.41, "scrub": 2.31, "correction": 1.93}.get(name, 1.62)),
    ):
        entries += [
            claim(subject, "training", before),
            claim(subject, "unlearning", after),
            claim(subject, "training+unlearning", math.hypot(before, after)),
        ]
    return entries


def _curve(
    name: str,
    title: str,
    guarantee: str,
    accuracy: float,
    backdoor: float,
    area: float,
    rounds: int,
    seconds: float,
    first: int,
) -> list[dict[str, Any]]:
    fresh = name in ("original", "retrained", "scratch")
    start, trigger = (0.1, 0.1) if fresh else (0.915, 0.01) if name == "rollback" else (0.922, 0.861)
    points = []
    for step in range(rounds + 1):
        speed = min(12, rounds / 4) if fresh else rounds / 5
        progress = 1 - math.exp(-step / speed)
        wobble = 0.006 * math.sin(2.7 * step) * (0 < step < rounds)
        value = trigger + (backdoor - trigger) * progress
        if name == "original":
            value = 0.05 * math.exp(-step / 10) + (0.861 * (1 - math.exp(-(step - 60) / 7)) if step > 60 else 0.01)
        points.append(
            {
                "round": first + step,
                "test_accuracy": start + (accuracy - start) * progress + wobble,
                "backdoor_success": min(max(value + wobble, 0.0), 1.0),
            }
        )
    return points


def _traffic(name: str, rounds: int, first: int) -> list[dict[str, Any]]:
    return [
        {
            "branch": name,
            "round": first + step,
            "purpose": "train" if name == "original" else f"unlearn/{name}",
            "upload_bytes_per_client": 62_310,
            "download_bytes_per_client": 128_400 if step % 2 else 121_400,
            "uploads": 10,
        }
        for step in range(rounds)
    ]


def _attack(area: float, records: int) -> dict[str, Any]:
    """The ROC curve of two unit Gaussians with this area under it, and histograms of both."""
    normal = NormalDist()
    shift = math.sqrt(2) * normal.inv_cdf(area)
    fpr = [0.0, *(10 ** (-4 + step / 10) for step in range(40)), 1.0] if records > 1000 else [k / 40 for k in range(41)]
    tpr = [normal.cdf(normal.inv_cdf(rate) + shift) if 0 < rate < 1 else rate for rate in fpr]
    spread = [1.96 * math.sqrt(max(rate * (1 - rate), 1e-4) / records) for rate in tpr]
    edges = [-4 + 0.4 * step for step in range(21)]

    def counts(centre: float) -> list[int]:
        shares = [normal.cdf(high - centre) - normal.cdf(low - centre) for low, high in itertools.pairwise(edges)]
        return [round(records * share) for share in shares]

    return {
        "fpr": fpr,
        "tpr": tpr,
        "tpr_low": [max(rate - width, 0.0) for rate, width in zip(tpr, spread, strict=True)],
        "tpr_high": [min(rate + width, 1.0) for rate, width in zip(tpr, spread, strict=True)],
        "member_scores_histogram": {"edges": edges, "members": counts(shift), "non_members": counts(0.0)},
    }
