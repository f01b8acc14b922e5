"""An audit.json as an audit of the default preset may write it, made up but consistent, and variants of it."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist
from typing import Any

NORMAL = NormalDist()

COINS = "Each canary was put in or left out by a fair coin of its own. Nothing else."
INDEPENDENT = "The scores of the canaries are independent of each other."
GAUSSIAN = "The scores of the canaries are Gaussian."

# name, title, after-only gap and half-width, forget-set accuracy gap and half-width, area of the pair, outcome
_METHODS = [
    ("rollback", "Rollback to before silo-09 joined", 0.002, 0.021, 0.001, 0.006, 0.690, "passed"),
    ("scrub", "Scrub", 0.063, 0.024, 0.004, 0.009, 0.741, "cannot tell"),
    ("correction", "Correction of the client's history", 0.012, 0.055, -0.012, 0.016, 0.612, "cannot tell"),
    ("finetune", "Fine-tuning on the rest", 0.121, 0.022, 0.038, 0.008, 0.513, "leak"),
    ("scratch", "From scratch, few rounds", -0.004, 0.018, -0.171, 0.014, 0.701, "invalid"),
    ("nothing", "Doing nothing (control)", 0.176, 0.020, 0.052, 0.007, 0.500, "leak"),
]
_SENTENCES = {
    "passed": "Not told apart from retraining, by tests that find a difference of the margin.",
    "cannot tell": "Nothing is certain: the interval reaches beyond the margin, and the test had a power of 0.61 only.",
    "leak": "Forgotten records are recognised better than after retraining (p 0.0003, after Holm).",
    "invalid": "Test accuracy is 16 points below retraining: a model that knows little gives little away.",
}


def example_audit() -> dict[str, Any]:
    """The default preset: a leak in the deletion, no leak in the released model, a protocol that holds."""
    return {
        "schema": "secure-fu/audit/1",
        "software": {"secure_fu": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
        "created": "2026-11-23T13:00:00+00:00",
        "complete": True,
        "source": {
            "kind": "run",
            "name": "digits-silos",
            "config": {"preset": "digits-silos", "training": {"rounds": 100, "sampling_rate": 0.25}, "seed": 0},
        },
        "insecure": [],
        "verdict": {
            "outcome": "leak",
            "sentences": [
                "Fine-tuning on the rest leaves a mark of the forgotten records that retraining does not leave.",
                "Rollback was not told apart from retraining.",
                "The noise of the protocol is what the ledger charges for.",
            ],
        },
        "membership": membership(area=0.531, records=360),
        "deletion": deletion(),
        "protocol": protocol(),
        "views": _views(),
        "assumptions": [
            "Members and non-members are drawn from one distribution.",
            "The coins of the canaries were thrown by the auditor and kept from everybody else.",
            "Shadow runs add the noise of all clients to a float sum, in place of encryption.",
        ],
        "not_seen": [
            "An attack on the membership of a record with a gap below 0.05 in the area under its ROC curve.",
            "An epsilon above 4.9: no attack on 1,000 canaries could have shown it.",
            "Clients that lie about their own data.",
        ],
        "timing": {"membership": 21.4, "deletion": 98.2, "protocol": 31.0, "total": 151.3},
    }


def passed() -> dict[str, Any]:
    """Only the protocol was audited, and held."""
    audit = example_audit()
    audit.update(membership=None, deletion=None)
    audit["verdict"] = {"outcome": "passed", "sentences": ["The protocol added the noise that its ledger charges for."]}
    return audit


def cannot_tell() -> dict[str, Any]:
    """Scores from elsewhere, too few of them: no rates at small false-positive rates, nothing else."""
    audit = example_audit()
    sentence = "Nothing was found, and with 40 records a side an area below 0.68 would not have been."
    audit.update(
        source={"kind": "scores", "name": "scores.npz", "config": None},
        verdict={"outcome": "cannot tell", "sentences": [sentence]},
        membership=membership(area=0.55, records=40),
        deletion=None,
        protocol=None,
        views=[],
    )
    audit["membership"].update(
        shadows=0,
        most_exposed=[],
        histogram=None,
        verdict={"outcome": "cannot tell", "sentence": sentence, "figures": {"auc_needed": 0.68}},
    )
    return audit


def invalid() -> dict[str, Any]:
    """Members and non-members from two distributions."""
    audit = cannot_tell()
    sentence = "Members and non-members do not come from one distribution (two-sample test, p 2e-9)."
    audit["verdict"] = {"outcome": "invalid", "sentences": [sentence]}
    audit["membership"]["warnings"] = [sentence]
    audit["membership"]["verdict"] = {"outcome": "invalid", "sentence": sentence, "figures": {"p_two_sample": 2e-9}}
    return audit


def memorising() -> dict[str, Any]:
    """A model without DP, many records: logarithmic axes, rates at 0.1 %, a leak in the membership part."""
    audit = example_audit()
    sentence = "At 1 % false alarms the attack recognises 7.8 % of the members."
    audit["membership"] = membership(area=0.722, records=10_000)
    audit["membership"]["verdict"] = {"outcome": "leak", "sentence": sentence, "figures": {"tpr_at_1pct_fpr": 0.078}}
    audit["verdict"] = {"outcome": "leak", "sentences": [sentence]}
    audit["insecure"] = ["privacy.epsilon is none: training adds no noise"]
    audit.update(deletion=None, protocol=None, views=[])
    return audit


def too_little_noise() -> dict[str, Any]:
    """A protocol that adds half the noise."""
    audit = passed()
    sentence = "The noise of the zero round is half of what the claim needs (p below 1e-12)."
    audit["verdict"] = {"outcome": "leak", "sentences": [sentence]}
    audit["protocol"] = protocol(ratio=0.501, claim=1.0)
    audit["protocol"]["verdict"] = {"outcome": "leak", "sentence": sentence, "figures": {"ratio": 0.501}}
    return audit


def quick() -> dict[str, Any]:
    """Made with --quick; two baselines, and the same reason for the three methods that are offered."""
    audit = example_audit()
    audit["source"]["quick"] = True
    sentence = "Doing nothing is not told from retraining either, so that nothing was found says nothing of the method."
    for row in audit["deletion"]["rows"]:
        row["baseline"] = row["name"] in ("finetune", "scratch")
        if not row["baseline"]:
            row["verdict"] = {"outcome": "cannot tell", "sentence": sentence, "figures": {}}
    protocol_sentence = audit["protocol"]["verdict"]["sentence"]
    audit["verdict"] = {"outcome": "cannot tell", "sentences": ["Nothing was found.", protocol_sentence]}
    return audit


def membership(*, area: float, records: int) -> dict[str, Any]:
    """Three attacks on so many members and non-members."""
    areas = {"loss": 0.5 + 0.6 * (area - 0.5), "rmia": 0.5 + 0.95 * (area - 0.5), "lira_online": area}
    return {
        "attacks": {name: attack(value, records) for name, value in areas.items()},
        "chosen": "lira_online",
        "members": records,
        "non_members": records,
        "shadows": 64,
        "most_exposed": [
            {
                "record": (37 * index) % 1437,
                "score": 6.1 - 0.35 * index,
                "member": True,
                "false_positive_rate": index / records,
            }
            for index in range(20)
        ],
        "histogram": histogram(area, records),
        "warnings": [],
        "verdict": {
            "outcome": "cannot tell",
            "sentence": "Nothing was found that chance does not give, and an area below 0.56 would not have been.",
            "figures": {"auc": area, "auc_needed": 0.56, "two_sample_p": None},
        },
    }


def attack(area: float, records: int) -> dict[str, Any]:
    """The ROC curve of two unit Gaussians with this area under it."""
    shift = math.sqrt(2) * NORMAL.inv_cdf(area)
    fpr = [0.0, *(10 ** (-4 + step / 10) for step in range(40)), 1.0] if records > 1000 else [k / 40 for k in range(41)]
    tpr = [_cdf(rate, shift) for rate in fpr]
    spread = [1.96 * math.sqrt(max(rate * (1 - rate), 1e-4) / records) for rate in tpr]
    half = 0.55 / math.sqrt(records)

    def rate_at(rate: float) -> dict[str, float] | None:
        if records * rate < 10:
            return None
        value = _cdf(rate, shift)
        width = 1.96 * math.sqrt(value * (1 - value) / records)
        return {"value": value, "low": max(value - width, 0.0), "high": value + width}

    return {
        "p_value": 2.0 * NORMAL.cdf(-abs(area - 0.5) / half * 1.96),
        "auc": {"value": area, "low": area - half, "high": min(area + half, 1.0)},
        "tpr_at_1pct_fpr": rate_at(0.01),
        "tpr_at_01pct_fpr": rate_at(0.001),
        "roc": {
            "fpr": fpr,
            "tpr": tpr,
            "low": [max(rate - width, 0.0) for rate, width in zip(tpr, spread, strict=True)],
            "high": [min(rate + width, 1.0) for rate, width in zip(tpr, spread, strict=True)],
        },
    }


def _cdf(rate: float, shift: float) -> float:
    return NORMAL.cdf(NORMAL.inv_cdf(rate) + shift) if 0 < rate < 1 else rate


def histogram(area: float, records: int) -> dict[str, Any]:
    """Counts of the scores of two unit Gaussians."""
    shift = math.sqrt(2) * NORMAL.inv_cdf(area)
    edges = [-4 + 0.4 * step for step in range(21)]

    def counts(centre: float) -> list[int]:
        shares = [NORMAL.cdf(high - centre) - NORMAL.cdf(low - centre) for low, high in itertools.pairwise(edges)]
        return [round(records * share) for share in shares]

    return {"edges": edges, "members": counts(shift), "non_members": counts(0.0)}


def deletion() -> dict[str, Any]:
    """Six methods, one of each outcome and more."""
    return {
        "runs": 48,
        "units": 240,
        "forgotten": 80,
        "unit": "record",
        "margin": 0.05,
        "accuracy_margin": 0.02,
        "level": 0.95,
        "utility_margin": 0.1,
        "power": {
            "likelihood ratio": {"margin": 0.05, "spread": 0.061, "power": 0.86, "runs_needed": 41},
            "loss": {"margin": 0.05, "spread": 0.092, "power": 0.61, "runs_needed": 78},
            "excess of forget accuracy": {"margin": 0.02, "spread": 0.031, "power": 0.97, "runs_needed": None},
        },
        "reference": pair_attacks(0.681),
        "rows": [_row(*values) for values in _METHODS],
    }


def comparison(gap: float, half: float, margin: float | None, retrained: float) -> dict[str, Any]:
    """Equivalent if the interval lies inside the margin, different if it leaves out zero."""
    tested = margin is not None
    return {
        "value": {"value": retrained + gap, "low": retrained + gap - half, "high": retrained + gap + half},
        "retrained": {"value": retrained, "low": retrained - 0.01, "high": retrained + 0.01},
        "gap": {"value": gap, "low": gap - half, "high": gap + half},
        "margin": margin,
        "p_equivalent": (0.002 if abs(gap) + half < (margin or 0) else 0.4) if tested else None,
        "p_different": (0.0003 if abs(gap) > half else 0.6) if tested else None,
        "equivalent": abs(gap) + half < (margin or 0) if tested else None,
    }


def _row(
    name: str, title: str, gap: float, half: float, accuracy: float, spread: float, pair: float, outcome: str
) -> dict[str, Any]:
    return {
        "name": name,
        "title": title,
        "after_only": {
            "likelihood ratio": comparison(gap, half, 0.05, 0.501),
            "loss": comparison(0.6 * gap, half, 0.05, 0.498),
        },
        "forget_set": {
            "excess": comparison(accuracy, spread, 0.02, 0.004),
            "accuracy": comparison(1.1 * accuracy, spread, None, 0.927),
            "loss": comparison(-2.1 * accuracy, 3 * spread, None, 0.262),
        },
        "usefulness": {
            "accuracy": comparison(-0.16 if name == "scratch" else -0.003, 0.004, None, 0.931),
            "chance": 0.103,
            "margin": 0.1,
        },
        "pair": {
            "headline": {attack["game"]: attack for attack in pair_attacks(pair) if "learned" in attack["feature"]},
            "attacks": pair_attacks(pair),
        },
        "retained_harm": {
            **{key: _area(0.51) for key in ("before", "after", "retrained", "both")},
            **{key: _area(0.004) for key in ("by_deletion", "by_method", "by_pair")},
        },
        "relearning": None
        if name == "scratch"
        else {
            "steps": _around(4.1 - 3.5 * gap, 0.9),
            "retrained": _around(4.1, 0.9),
            "gap": _around(-3.5 * gap, 0.9),
            "longest": 40,
            "given_up": 0.0,
            "retrained_given_up": 0.0,
        },
        "class_leakage": None
        if name == "scratch"
        else {"accuracy": _area(0.23), "chance": 0.1, "correlation": None if name == "nothing" else _area(0.31)},
        "inversion": {
            "exact": False,
            "cosine": _area(0.62),
            "guess_cosine": _area(0.6),
            "gain": _area(0.02),
        },
        "verdict": {"outcome": outcome, "sentence": _SENTENCES[outcome], "figures": {"p": None, "gap": gap}},
        "pair_verdict": {
            "outcome": "leak" if pair > 0.6 else "cannot tell",
            "sentence": f"Before and after together tell forgotten records from others: area {pair:.2f}."
            if pair > 0.6
            else "Nothing was found in the difference.",
            "figures": {"auc": pair},
        },
    }


def pair_attacks(area: float) -> list[dict[str, Any]]:
    """Two features in two games; the learned one is the headline."""
    return [
        {
            "game": game,
            "feature": feature,
            "auc": _area(area - less),
            "retrained": _area(0.681 - less),
            "margin": 0.05,
            "equivalent": abs(area - less - 0.5) < 0.02,
            "p_equivalent": 0.01 if abs(area - less - 0.5) < 0.02 else 0.7,
            "p_different": 0.0001 if abs(area - less - 0.5) > 0.03 else 0.5,
        }
        for game in ("out-then-out", "in-then-in")
        for feature, less in (("drop of confidence", 0.04), ("drop of confidence, learned", 0.0))
    ]


def _area(value: float) -> dict[str, float]:
    return _around(value, 0.03)


def _around(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def protocol(*, ratio: float = 1.003, claim: float = 4.0) -> dict[str, Any]:
    """1000 canaries in ten encrypted rounds."""
    share = claim / 4.0

    def bound(method: str, assumption: str, value: float, largest: float | None) -> dict[str, Any]:
        return {
            "method": method,
            "assumption": assumption[:12].lower(),
            "assumes": assumption,
            "value": value * share,
            "largest": largest,
            "delta": 1e-5,
            "level": 0.95,
            "canaries": 1000,
        }

    def variance(ratio: float, values: int) -> dict[str, Any]:
        half = 1.386 / math.sqrt(values)
        return {
            "ratio": {"value": ratio, "low": ratio * (1 - half), "high": ratio * (1 + half)},
            "p_too_small": NORMAL.cdf((ratio - 1) / half * 1.96),
            "p_too_large": NORMAL.cdf((1 - ratio) / half * 1.96),
            "values": values,
            "level": 0.95,
        }

    def held(name: str, draws: int, factor: float, p_too_large: float) -> dict[str, Any]:
        return {
            "name": name,
            "draws": draws,
            "factor": factor,
            "p_too_large": p_too_large,
            "p_too_small": 1 - p_too_large,
        }

    def finding(good: str, bad: str) -> dict[str, Any]:
        enough = ratio > 0.95
        return {"outcome": "passed" if enough else "leak", "sentence": good if enough else bad, "figures": {}}

    return {
        "claim": {"epsilon": claim, "delta": 1e-5, "recomputed": 0.97 * claim},
        "bounds": [
            bound("Clopper-Pearson", INDEPENDENT, 0.93, 4.9),
            bound("one run", COINS, 1.12, 5.8),
            bound("f-DP", GAUSSIAN, 1.52, 6.3),
            bound("Gaussian scores", GAUSSIAN, 2.81, 9.4),
            bound("mean test", GAUSSIAN, 3.54, None),
        ],
        "zero_round": variance(ratio, 5000),
        "required_noise": variance(1.061 * ratio, 5000),
        "round_noise": variance(0.998 * ratio, 5100),
        "contributions": {
            "overall": held("everybody", 4980, 1.004, 0.42),
            "p_too_large": 0.61,
            "least_likely": [held("silo-03", 520, 1.11, 0.07), held("silo-07", 490, 1.02, 0.44)],
        },
        "findings": {
            "noise": finding("The zero round has the noise of all who took part.", "A quarter of the noise is there."),
            "rounds": finding("So have the training rounds.", "In the training rounds, too."),
            "contributions": {
                "outcome": "cannot tell",
                "sentence": "No client sends too much; twice the clip norm of one client would not have been seen.",
                "figures": {"visible": 2.4},
            },
            "claim": finding("No bound exceeds the claim.", "No bound exceeds the claim, but the noise is not there."),
        },
        "canaries": 1000,
        "rounds": 10,
        "verdict": {
            "outcome": "passed",
            "sentence": "Every bound lies below the claim, and the zero round has the noise that is charged for.",
            "figures": {"claim": claim, "largest_bound": 3.54 * share},
        },
    }


def _views() -> list[dict[str, Any]]:
    rows = [
        ("whoever knows all but the canaries", "all released sums, and every contribution beside the canaries", 1.0),
        ("the server", "all released sums, who took part, and one ciphertext a client and round", 0.8),
        ("3 committee members, pooled with the server", "shares of every upload's key that are sealed to them", None),
        ("a client", "all released models, which tell the sums, and its own upload, noise included", 0.81),
        ("an outsider", "the last model alone, and the public one that training began with", 0.1),
    ]
    bounds = protocol()["bounds"]
    views = []
    for party, sees, share in rows:
        finds = (
            "They opened 0 of 10 uploads; guesses from what they read have an AUC of 0.50 [0.46, 0.54]."
            if share is None
            else f"Of the 4.00 that the ledger allows, it can show {3.54 * share:.2f}."
        )
        views.append(
            {
                "party": party,
                "sees": sees,
                "finds": finds,
                "bounds": [] if share is None else [{**bound, "value": bound["value"] * share} for bound in bounds],
                "claim": None if share is None else {"epsilon": 4.0, "delta": 1e-5, "recomputed": None},
                "attempts": [],
                "figures": {},
                "verdict": {
                    "outcome": "cannot tell" if share == 0.1 else "passed",
                    "sentence": f"It finds no more than promised. {finds}",
                    "figures": {},
                },
            }
        )
    return views
