"""A local epoch of many clients as one stacked model, over a pass over their pooled records and over a loop of clients.

A thousand clients of sixty MNIST records each, batches of twenty. All three see every record once and do plain SGD in
float32. The pooled pass is torch's own optimiser on shuffled records, once with the clients' batch size and once with
batches of a thousand, which is as fast as one model gets. The loop is `client_update`, client by client. Ratios are
medians over repetitions that take turns, so that a busy machine slows all sides alike. They come with the largest
difference between an update of the stack and of the loop.
"""

from __future__ import annotations

import copy
import statistics
import sys

import numpy as np
import torch
from harness import arguments, report, spread, timed
from numpy.typing import NDArray
from torch import nn

from secure_fu.learning import (
    FlatModel,
    LocalTraining,
    Records,
    client_update,
    cnn,
    digits,
    idx_folder,
    logistic,
    mlp,
    stacked_client_updates,
)

BATCH, LARGE_BATCH = 20, 1000
TRAINING = LocalTraining(epochs=1, learning_rate=0.05, batch_size=BATCH)


def main() -> None:
    # A quick run without the folder takes digits.
    given = any(argument.partition("=")[0] == "--data-dir" for argument in sys.argv)
    options = arguments(__doc__, data_dir=given or "--quick" not in sys.argv)
    count, each, repetitions = (20, 60, 2) if options.quick else (1000, 60, 9)
    records = idx_folder(options.data_dir).train if "data_dir" in options else digits(seed=0).train
    order = np.random.default_rng(0).permutation(len(records))[: count * each]
    clients = [records.subset(part) for part in np.split(order, count)]
    pooled = records.subset(order)
    inputs, classes = records.width, 10
    modules = {
        f"logistic {inputs}-{classes}": logistic(inputs, classes, seed=0),
        f"MLP {inputs}-32-{classes}": mlp(inputs, (32,), classes, seed=0),
        f"CNN 8-16-{classes}": cnn(records.shape, (8, 16), classes, seed=0),
    }
    figures: dict[str, object] = {"clients": count, "records a client": each, "threads": options.threads}
    for name, module in modules.items():
        figures[name] = _compare(module, clients, pooled, repetitions)
    report(options, figures)


def _compare(module: nn.Module, clients: list[Records], pooled: Records, repetitions: int) -> dict[str, object]:
    model = FlatModel(module)
    start = model.vector()
    seeds = range(len(clients))

    def stack() -> NDArray[np.float64]:
        return stacked_client_updates(model, start, clients, training=TRAINING, clip_norm=1.0, seeds=seeds)

    def loop() -> NDArray[np.float64]:
        return np.stack(
            [
                client_update(model, start, own, training=TRAINING, clip_norm=1.0, seed=seed)
                for own, seed in zip(clients, seeds, strict=True)
            ]
        )

    work = {
        "stack": stack,
        "loop": loop,
        "pooled": lambda: _pooled_pass(module, pooled, BATCH),
        "pooled, large batches": lambda: _pooled_pass(module, pooled, LARGE_BATCH),
    }
    difference = float(np.abs(stack() - loop()).max())  # and warms up
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repetitions):
        for name, task in work.items():
            seconds[name].append(timed(task)[0])
    return {
        "parameters": model.dimension,
        "seconds": {name: spread(taken) for name, taken in seconds.items()},
        "loop over stack, median of pairs": _ratio(seconds["loop"], seconds["stack"]),
        f"stack over pooled pass in batches of {BATCH}, median of pairs": _ratio(seconds["stack"], seconds["pooled"]),
        f"stack over pooled pass in batches of {LARGE_BATCH}, median of pairs": _ratio(
            seconds["stack"], seconds["pooled, large batches"]
        ),
        "largest difference of stack and loop": difference,
    }


def _pooled_pass(module: nn.Module, records: Records, batch_size: int) -> None:
    own = copy.deepcopy(module).train()
    optimiser = torch.optim.SGD(own.parameters(), lr=TRAINING.learning_rate)
    for batch in torch.split(torch.randperm(len(records)), batch_size):
        optimiser.zero_grad()
        nn.functional.cross_entropy(own(records.features[batch]), records.labels[batch]).backward()
        optimiser.step()


def _ratio(numerators: list[float], denominators: list[float]) -> float:
    return statistics.median(above / below for above, below in zip(numerators, denominators, strict=True))


if __name__ == "__main__":
    main()
