"""Membership attacks on memorising models: seconds for shadow models and attacks, and what each attack finds.

MLPs trained without differential privacy until they know their halves of a pool by heart. Every model is once the
target; its shadow models are pairs drawn from the others, never its own pair: a set without the target alone would give
membership away by how many models know a record. Figures are means over targets. The true positive rate at 0.1 % is the
share of members above all but 0.1 % of the non-members, on small pools above all of them; one target alone says little
there, so it comes as a mean over targets, and as a paired gap to LiRA with one variance for all records, with Student's
95 % interval over targets. Targets share shadow models, so intervals are somewhat too narrow.

With `--data-dir`, MNIST too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from harness import arguments, report, timed
from numpy.typing import NDArray

from secure_fu.audit import ShadowModels, membership_audit, shadow_models
from secure_fu.audit.attacks import (
    Variance,
    calibrated_attack,
    confidence,
    lira_offline,
    lira_online,
    loss_attack,
    offline_scaling,
    rmia,
)
from secure_fu.learning import FlatModel, Records, StackedTraining, digits, idx_folder, mlp
from secure_fu.privacy import auc, mean_interval, paired_gap_interval

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Attack = Callable[[Array, Array, Mask, Mask], Array]  # target, shadows, members, members of the target
RATES = (0.01, 0.001)


@dataclass(frozen=True)
class Setting:
    records: Records
    hidden: tuple[int, ...]
    models: int
    steps: int
    batch: int
    rate: float
    shadows: tuple[int, ...]


ATTACKS: dict[str, Attack] = {
    "loss": lambda target, shadows, members, truth: loss_attack(target),
    "calibrated": lambda target, shadows, members, truth: calibrated_attack(target, shadows, members),
    "RMIA online": lambda target, shadows, members, truth: rmia(target, shadows, members, population=~truth),
    "RMIA offline": lambda target, shadows, members, truth: rmia(
        target, shadows, members, population=~truth, scaling=offline_scaling(shadows, members)
    ),
    **{
        f"LiRA online, {variance.value} variance": lambda target, shadows, members, truth, variance=variance: (
            lira_online(target, shadows, members, variance=variance)
        )
        for variance in Variance
    },
    **{
        f"LiRA offline, {variance.value} variance": lambda target, shadows, members, truth, variance=variance: (
            lira_offline(target, shadows, members, variance=variance)
        )
        for variance in Variance
    },
}
REFERENCE = f"LiRA online, {Variance.FIXED.value} variance"


def main() -> None:
    # MNIST is left out where no folder is given.
    given = any(argument.partition("=")[0] == "--data-dir" for argument in sys.argv)
    options = arguments(__doc__, data_dir=given)
    data = digits(seed=0)
    everything = Records(
        torch.cat([data.train.features, data.test.features]), torch.cat([data.train.labels, data.test.labels])
    )
    order = np.random.default_rng(0).permutation(len(everything))
    few = 16 if options.quick else 256
    counts = (4, 8) if options.quick else (2, 4, 8, 16, 64)
    settings = {
        "digits, 1797 records, MLP 64-64-10": Setting(everything, (64,), few, 500, 128, 0.1, counts),
        "digits, 600 records, MLP 64-64-10": Setting(everything.subset(order[:600]), (64,), few, 500, 128, 0.1, counts),
    }
    if given:
        pool = idx_folder(options.data_dir).train
        chosen = np.random.default_rng(0).permutation(len(pool))[: 2000 if options.quick else 20_000]
        settings[f"MNIST, {len(chosen)} records, MLP 784-32-10"] = Setting(
            pool.subset(chosen),
            (32,),
            12 if options.quick else 64,
            100 if options.quick else 2500,
            128,
            0.1,
            counts[:4],
        )
    report(options, {name: _measured(setting) for name, setting in settings.items()} | {"threads": options.threads})


def _measured(setting: Setting) -> dict[str, object]:
    pool = setting.records
    model = FlatModel(mlp(pool.width, setting.hidden, 10, seed=0))
    training = StackedTraining(
        steps=setting.steps,
        sampling_rate=setting.batch / (len(pool) / 2),
        learning_rate=setting.rate,
        momentum=0.9,
        divisor=float(setting.batch),
    )
    cpu = time.process_time()
    seconds, shadows = timed(lambda: shadow_models(model, pool, count=setting.models, training=training, seed=0))
    cpu = time.process_time() - cpu
    audit_seconds, outcome = timed(_one_audit, shadows)
    phi = confidence(shadows.logits(), pool.labels.numpy())
    right = phi > 0.0
    return {
        "shadow models": setting.models,
        "seconds of training": seconds,
        "processor seconds of training": cpu,
        "seconds of one audit with all attacks": audit_seconds,
        "its verdict": outcome,
        "accuracy on members": float(right[shadows.members].mean()),
        "accuracy on others": float(right[~shadows.members].mean()),
        "by number of shadow models": {
            count: _compared(phi, shadows.members, count) for count in setting.shadows if count <= setting.models - 2
        },
    }


def _one_audit(shadows: ShadowModels) -> str:
    """The first model as the target, all pairs but its own as its shadow models."""
    flat = FlatModel(shadows.model.module)
    flat.load(shadows.vectors[0].astype(np.float64))
    inside = shadows.members[0]
    audit = membership_audit(
        flat.module,
        members=shadows.records.subset(inside),
        non_members=shadows.records.subset(~inside),
        shadows=ShadowModels(
            model=shadows.model,
            records=shadows.records,
            members=shadows.members[2:],
            vectors=shadows.vectors[2:],
        ),
    )
    return f"{audit.verdict.outcome.value}: {audit.verdict.sentence}"


def _compared(phi: Array, members: Mask, shadows: int) -> dict[str, object]:
    generator = np.random.default_rng(shadows)
    models = len(phi)
    figures: dict[str, list[tuple[float, ...]]] = {}
    for target in range(models):
        own = target // 2
        pairs = generator.choice([pair for pair in range(models // 2) if pair != own], size=shadows // 2, replace=False)
        chosen = np.concatenate([2 * pairs, 2 * pairs + 1])
        truth = members[target]
        for name, attack in ATTACKS.items():
            if shadows < 4 and name.startswith("LiRA"):
                continue
            scores = attack(phi[target], phi[chosen], members[chosen], truth)
            inside, outside = scores[truth], np.sort(scores[~truth])[::-1]
            rates = [float((inside > outside[int(len(outside) * rate)]).mean()) for rate in RATES]
            figures.setdefault(name, []).append((auc(inside, outside[::-1]).value, *rates))
    columns = {name: np.array(rows).T for name, rows in figures.items()}
    return {
        name: {
            key: mean_interval(column[index]).to_json()
            for index, key in enumerate(("auc", "tpr at 1 %", "tpr at 0.1 %"))
        }
        | (
            {"tpr at 0.1 % over LiRA with fixed variance": _gap(column[2], columns[REFERENCE][2])}
            if REFERENCE in columns
            else {}
        )
        for name, column in columns.items()
    }


def _gap(first: Array, second: Array) -> dict[str, float]:
    return paired_gap_interval(first, second, level=0.95).to_json()


if __name__ == "__main__":
    main()
