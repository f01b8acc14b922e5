"""Certified newton on a convex head: what it forgets to, what it costs beside retraining, and what it does to accuracy.

MNIST. Ten thousand training records are public; a small network is trained on them without privacy, and its last layer
but one, put on a sphere, gives the features of all other records: fifty thousand in ten silos, which train a
`LinearHead` with record-level privacy. Five hundred records of one silo, one per cent of all, have wrong labels and are
then forgotten. lambda is fixed beforehand. Seed 0 runs under scheme `kahe`, the others under `plain`, which releases
the same sums. Rows: the original; nothing done but the same output noise; retraining with the same rounds; newton; the
original without lambda; and the public network alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from harness import arguments, report
from numpy.typing import NDArray
from torch import nn

from secure_fu.deletion import DeletionRequest
from secure_fu.errors import GuaranteeError
from secure_fu.federation import Federation, Unlearned
from secure_fu.learning import Dataset, LinearHead, Records, accuracy, idx_folder, predictions
from secure_fu.planning import Plan, make_plan
from secure_fu.privacy import Phase, Subject, gaussian_epsilon, mean_interval, paired_gap_interval
from secure_fu.unlearning import CertifiedModel, Retrain
from secure_fu.unlearning.newton import Newton

LAMBDA = 0.01
PUBLIC, SILOS, FORGOTTEN, FEATURES, RADIUS = 10_000, 10, 500, 8, 3.0
ROUNDS, STEPS, RATE, LEVEL = 100, 2, 2.0, 0.90
CLASSES = 10
MEASURED = ("rounds", "seconds", "bytes up")


class _Sphere(nn.Module):
    """Puts each record's features at the same distance from 0, so that the head's bound takes nothing from any."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return RADIUS * nn.functional.normalize(values, dim=1)


def public_network(public: Records, epochs: int) -> nn.Sequential:
    """Features and a head of its own, trained on public records alone."""
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(800, 64), nn.ReLU(), nn.Linear(64, FEATURES), _Sphere(),
    )  # fmt: skip
    network = nn.Sequential(features, nn.Linear(FEATURES, CLASSES))
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(public)).split(100):
            loss = nn.functional.cross_entropy(network(public.features[chosen]), public.labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval()


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the federation has: features instead of images, as clients compute them once from the public network."""

    private: Records
    test: Records
    public_accuracy: float


def make_task(data: Dataset, quick: bool) -> Task:
    order = np.random.default_rng(0).permutation(len(data.train))
    public, private = data.train.subset(order[:PUBLIC]), data.train.subset(order[PUBLIC:])
    network = public_network(public, 2 if quick else 8)

    def of(records: Records) -> Records:
        with torch.no_grad():
            return Records(torch.cat([network[0](part) for part in records.features.split(5000)]), records.labels)

    test = of(data.test)
    with torch.no_grad():
        found = network[1](test.features).argmax(dim=1)
    return Task(private=of(private), test=test, public_accuracy=float((found == test.labels).double().mean()))


def make_silos(private: Records, seed: int) -> dict[str, Records]:
    """Equal random silos; the first of them has its first records labelled wrongly."""
    order = np.random.default_rng(seed).permutation(len(private))
    silos = {f"silo-{index}": private.subset(part) for index, part in enumerate(np.array_split(order, SILOS))}
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
    asked = STEPS + 2
    noise = plan.recipe.noise_multiplier * math.sqrt(asked / rounds)
    # Sums of gradients that saturate nowhere: it costs a few bits of each coordinate.
    recipe = replace(plan.recipe, saturation=1.001 * module.coordinate_bound * units)
    return replace(plan, recipe=recipe, least_noise_multiplier=noise), Newton(steps=STEPS, noise_multiplier=noise)


def minimiser(silos: dict[str, Records], units: int) -> NDArray[np.float64]:
    """Of the objective without the wrong labels: Newton's method in float64, from all the records."""
    head = LinearHead(None, inputs=FEATURES, classes=CLASSES).double()
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


def one_seed(task: Task, seed: int, quick: bool) -> dict[str, object]:
    rounds, units = (20 if quick else ROUNDS), len(task.private)
    silos = make_silos(task.private, seed)
    module = LinearHead(None, inputs=FEATURES, classes=CLASSES)
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
        retrained = federation.unlearn(request, Retrain())
        means: list[NDArray[np.float64]] = []
        try:
            published = federation.unlearn(
                request, newton, on_round=lambda state: means.append(state.model.vector.astype(np.float64))
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
    task = make_task(idx_folder(options.data_dir), options.quick)
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
