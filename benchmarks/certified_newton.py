"""Certified newton on a convex head: what it forgets to, what it costs beside retraining, and what it does to accuracy.

The task of `public_features.py`: MNIST's features from a network that was trained on public records, and a head on them
that ten silos train. Five hundred records of one silo, one per cent of all, have wrong labels and are then forgotten.
Seed 0 runs under scheme `kahe`, the others under `plain`, which releases the same sums. Rows: the original; nothing
done but the same output noise; retraining with the same rounds; newton; the original without lambda; and the public
network alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from harness import arguments, report
from numpy.typing import NDArray
from public_features import (
    CLASSES,
    EPOCHS,
    FEATURES,
    LAMBDA,
    RATE,
    ROUNDS,
    SILOS,
    STEPS,
    PublicFeatures,
    equal_silos,
    linear_head,
    newton_noise,
    public_features,
    unclamped,
)
from torch import nn

from secure_fu.deletion import DeletionRequest
from secure_fu.errors import GuaranteeError
from secure_fu.federation import Federation, Unlearned
from secure_fu.learning import LinearHead, Records, accuracy, predictions
from secure_fu.planning import Plan, make_plan
from secure_fu.privacy import Phase, Subject, gaussian_epsilon, mean_interval, paired_gap_interval
from secure_fu.unlearning import CertifiedModel, Retrain
from secure_fu.unlearning.newton import Newton

FORGOTTEN, LEVEL = 500, 0.90
MEASURED = ("rounds", "seconds", "bytes up")


def make_silos(private: Records, seed: int) -> dict[str, Records]:
    """Equal random silos; the first of them has its first records labelled wrongly."""
    silos = equal_silos(private, seed)
    labels = silos["silo-0"].labels.clone()
    labels[:FORGOTTEN] = (labels[:FORGOTTEN] + 1) % CLASSES
    silos["silo-0"] = Records(silos["silo-0"].features, labels)
    return silos


def plan_of(module: LinearHead, units: int, rounds: int, decay: float) -> tuple[Plan, Newton]:
    """A budget of epsilon 8 for training and for retraining; newton's rounds together cost as much as retraining's."""
    plan = make_plan(
        module,
        clients=SILOS,
        nominal_units=units,
        minimum_cohort=SILOS,
        rounds=rounds,
        sampling_rate=1.0,
        learning_rate=RATE,
        clip_norm=module.gradient_bound,
        weight_decay=decay,
    )
    noise = newton_noise(plan)
    return (
        replace(unclamped(plan, module), least_noise_multiplier=noise),
        Newton(steps=STEPS, noise_multiplier=noise),
    )


def minimiser(silos: dict[str, Records], units: int) -> NDArray[np.float64]:
    """Of the objective without the wrong labels: Newton's method in float64, from all the records."""
    head = linear_head().double()
    parts = [records.subset(slice(FORGOTTEN if name == "silo-0" else 0, None)) for name, records in silos.items()]
    inputs = torch.cat([head.bounded(part.features.double()) for part in parts])
    targets = nn.functional.one_hot(torch.cat([part.labels for part in parts]), CLASSES).double()
    weights = torch.zeros(CLASSES, FEATURES + 1, dtype=torch.float64)
    size = weights.numel()
    for _ in range(12):
        odds = torch.softmax(inputs @ weights.T, dim=1)
        gradient = ((odds - targets).T @ inputs / units + LAMBDA * weights).reshape(-1)
        hessian = torch.zeros(CLASSES, FEATURES + 1, CLASSES, FEATURES + 1, dtype=torch.float64)
        for first in range(CLASSES):
            for second in range(CLASSES):
                factor = odds[:, first] * (float(first == second) - odds[:, second])
                hessian[first, :, second] = (inputs * factor[:, None]).T @ inputs / units
        matrix = hessian.reshape(size, size) + LAMBDA * torch.eye(size, dtype=torch.float64)
        weights = weights - torch.linalg.solve(matrix, gradient).view_as(weights)
    assert float(gradient.norm()) < 1e-10
    found: NDArray[np.float64] = weights.reshape(-1).numpy()
    return found


def one_seed(task: PublicFeatures, seed: int, quick: bool) -> dict[str, object]:
    rounds, units = (20 if quick else ROUNDS), len(task.private)
    silos = make_silos(task.private, seed)
    module = linear_head()
    plan, newton = plan_of(module, units, rounds, LAMBDA)
    wrong = silos["silo-0"].subset(slice(0, FORGOTTEN))
    exact = minimiser(silos, units)
    request = DeletionRequest.some_records("silo-0", tuple(range(FORGOTTEN)))
    scheme = "kahe" if seed == 0 else "plain"
    with Federation(module, silos, plan=plan, scheme_name=scheme, methods=(newton,), keep_history=False) as federation:

        def figures(vector: NDArray[np.float64]) -> dict[str, float]:
            return {
                "accuracy": accuracy(federation.model, vector, task.test),
                "wrong labels kept": float(
                    np.mean(predictions(federation.model, vector, wrong) == wrong.labels.numpy())
                ),
                "distance from the minimiser without the data": float(np.linalg.norm(vector - exact)),
            }

        original = federation.train().model.vector.astype(np.float64)
        retrained = federation.unlearn(request, Retrain(), adaptive=False)
        means: list[NDArray[np.float64]] = []
        try:
            published = federation.unlearn(
                request,
                newton,
                on_round=lambda state: means.append(state.model.vector.astype(np.float64)),
                adaptive=False,
            )
        except GuaranteeError as error:
            return {"refused": str(error)}
        guarantee = published.guarantee
        assert isinstance(guarantee, CertifiedModel)
        sigma, delta = guarantee.output_noise, guarantee.delta
        noise = np.random.default_rng(seed).normal(size=len(original)) * sigma
        rows: dict[str, object] = {
            "original": figures(original),
            "nothing done": figures(original + noise)
            | {"epsilon at best": gaussian_epsilon(float(np.linalg.norm(original - exact)), sigma, delta)},
            "retrained": figures(retrained.state.model.vector.astype(np.float64)),
            "newton": figures(published.state.model.vector.astype(np.float64))
            | {
                "epsilon": guarantee.epsilon,
                "delta": delta,
                "output noise": sigma,
                "certified distance before it": guarantee.shift,
                "true distance before it": float(np.linalg.norm(means[-2] - exact)),
            },
        }
    rows["without lambda"] = {"accuracy": _unregularised(module, silos, task.test, units, rounds)}
    return {
        "scheme": scheme,
        "rows": rows,
        "cost": {"retrained": _cost(retrained), "newton": _cost(published)},
        "noise multiplier of training": plan.recipe.noise_multiplier,
        "of newton": newton.noise_multiplier,
    }


def _unregularised(module: LinearHead, silos: dict[str, Records], test: Records, units: int, rounds: int) -> float:
    """The same training with lambda 0."""
    plan, _ = plan_of(module, units, rounds, 0.0)
    with Federation(module, silos, plan=plan, scheme_name="plain", keep_history=False) as federation:
        return accuracy(federation.model, federation.train().model.vector.astype(np.float64), test)


def _cost(unlearned: Unlearned) -> dict[str, float | None]:
    paid = {entry.subject: entry.value for entry in unlearned.epsilon if entry.phase is Phase.BOTH}
    return {
        "rounds": len(unlearned.traffic),
        "seconds": unlearned.seconds,
        "bytes up": sum(round_.upload_bytes for round_ in unlearned.traffic),
        "epsilon of the retained, training included": paid[Subject.RETAINED],
    }


def _summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    tables = [result["rows"] for result in results if "rows" in result]
    summary: dict[str, Any] = {"refused": sum("refused" in result for result in results)}
    for name in tables[0]:
        summary[name] = {
            key: mean_interval([table[name][key] for table in tables], level=LEVEL).to_json() for key in tables[0][name]
        }
        if name != "retrained":
            summary[name]["accuracy minus retrained"] = paired_gap_interval(
                [table[name]["accuracy"] for table in tables],
                [table["retrained"]["accuracy"] for table in tables],
                level=LEVEL,
            ).to_json()
    summary["retraining's cost over newton's"] = {
        f"seed {seed}, {result['scheme']}": {
            key: result["cost"]["retrained"][key] / result["cost"]["newton"][key] for key in MEASURED
        }
        for seed, result in enumerate(results)
        if "cost" in result
    }
    return summary


def main() -> None:
    options = arguments(__doc__, data_dir=True)
    task = public_features(options.data_dir, epochs=2 if options.quick else EPOCHS)
    results = []
    for seed in range(2 if options.quick else 6):
        results.append(one_seed(task, seed, options.quick))
        print(f"seed {seed}: {results[-1]}", flush=True)
    report(
        options,
        {
            "lambda": LAMBDA,
            "level": LEVEL,
            "accuracy of the public network alone": task.public_accuracy,
            "summary": _summary(results),
            "seeds": results,
        },
    )


if __name__ == "__main__":
    main()
