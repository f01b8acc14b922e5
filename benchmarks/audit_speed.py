"""Seconds of shadow models with all attacks, on digits and MNIST, and what canaries cost beyond their run.

The models memorise: no noise, no clipping. The canary runs have ten clients with made-up records and 4969 parameters;
both sides of a pair train 20 rounds, the canaries' side adds a zero round and the audit.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from harness import arguments, report, spread

from secure_fu.audit import membership_audit, shadow_models
from secure_fu.auditor import audit_protocol, canary_run
from secure_fu.federation import Federation
from secure_fu.learning import (
    FlatModel,
    Records,
    StackedTraining,
    digits,
    idx_folder,
    mlp,
    split_records,
    train_stacked,
)
from secure_fu.planning import make_plan


def shadows(pool: Records, sizes: tuple[int, int], training: StackedTraining, count: int) -> dict[str, object]:
    members, held_out = split_records(pool, test_fraction=0.5, seed=0)
    target = FlatModel(mlp(sizes[0], sizes[1:], 10, 0))
    everyone = np.ones((1, len(members)), dtype=np.bool_)
    target.load(
        train_stacked(target, members, everyone, training=training, start=target.vector(), seeds=[5])[0].astype(float)
    )
    started = time.perf_counter()
    trained = shadow_models(FlatModel(mlp(sizes[0], sizes[1:], 10, 0)), pool, count=count, training=training, seed=1)
    attacked = time.perf_counter()
    audit = membership_audit(target.module, members=members, non_members=held_out, shadows=trained)
    return {
        "models": count,
        "records": len(pool),
        "seconds of training": attacked - started,
        "seconds of all attacks": time.perf_counter() - attacked,
        "verdict": audit.verdict.outcome.value,
        "areas": {name: attack.auc.value for name, attack in audit.attacks.items()},
    }


def canaries(scheme: str, count: int, repetitions: int) -> dict[str, object]:
    draw = torch.Generator().manual_seed(0)
    clients = {
        f"client-{number}": Records(torch.randn(100, 76, generator=draw), torch.randint(0, 10, (100,), generator=draw))
        for number in range(10)
    }
    module = mlp(76, (57,), 10, 0)
    plan = make_plan(module, clients=10, nominal_units=1000, minimum_cohort=9, rounds=20, sampling_rate=0.25)

    def without() -> float:
        started = time.process_time()
        with Federation(module, clients, plan=plan, scheme_name=scheme, keep_history=False) as federation:
            federation.train()
        return time.process_time() - started

    def with_canaries() -> float:
        started = time.process_time()
        audit_protocol(canary_run(module, clients, plan, canaries=count, scheme_name=scheme))
        return time.process_time() - started

    without(), with_canaries()  # compiles
    return {
        "canaries": count,
        "processor seconds beyond the run": spread([with_canaries() - without() for _ in range(repetitions)]),
    }


def main() -> None:
    options = arguments(__doc__, data_dir=True)
    small = digits(seed=0)
    pool = Records(
        torch.cat([small.train.features, small.test.features]), torch.cat([small.train.labels, small.test.labels])
    )
    settings = {"learning_rate": 0.3, "momentum": 0.9}
    memorising = StackedTraining(steps=400, sampling_rate=0.1, divisor=0.05 * len(pool), **settings)
    images = idx_folder(options.data_dir).train
    if options.quick:
        images = images.subset(slice(0, 4000))
    large = StackedTraining(
        steps=300 if options.quick else 3000,
        sampling_rate=256 / len(images),
        divisor=128.0,
        learning_rate=0.1,
        momentum=0.9,
    )
    figures: dict[str, object] = {
        "digits, MLP 64-64-10": shadows(pool, (64, 64), memorising, 16 if options.quick else 256),
        "MNIST, MLP 784-32-10": shadows(images, (784, 32), large, 8 if options.quick else 64),
    }
    for scheme in ("kahe", "plain"):
        figures[f"canaries, {scheme}"] = canaries(scheme, 1000, 1 if options.quick else 3)
    report(options, figures)


if __name__ == "__main__":
    main()
