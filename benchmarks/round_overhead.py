"""Training rounds with scheme `bfv` over the same rounds with scheme `plain`, paired, and the bytes on the wire.

Two federations of ten silos: the default preset's small MLP on digits, and an MLP of 1e5 parameters on MNIST.
Everything else (clipping, noise, signatures, sealing, ledger) is the same in both.
"""

from __future__ import annotations

import statistics
from argparse import Namespace

from harness import arguments, report, timed

from secure_fu.config import SimulationConfig, load_preset, with_overrides
from secure_fu.federation import Federation
from secure_fu.learning import FlatModel
from secure_fu.protocol import InProcessSums
from secure_fu.scenario import build_scenario
from secure_fu.simulation import encryption_processes, plan_of
from secure_fu.training import Recipe, TrainingState, train


def main() -> None:
    options = arguments(__doc__, data_dir=True)
    block, blocks = (2, 2) if options.quick else (5, 10)
    figures: dict[str, object] = {}
    for preset in ("digits-silos", "mnist-silos"):
        config = with_overrides(load_preset(preset), ["deletion.joined_at=0"])
        figures[preset] = _compare(config, options, block, blocks)
    report(options, figures)


def _compare(config: SimulationConfig, options: Namespace, block: int, blocks: int) -> dict[str, object]:
    scenario = build_scenario(config, data_dir=options.data_dir)
    plan = plan_of(config, scenario)
    seconds: dict[str, list[float]] = {"plain": [], "bfv": []}
    federations = {
        name: Federation(
            scenario.module,
            scenario.clients,
            plan=plan,
            scheme_name=name,
            keep_history=False,
            encryption_processes=encryption_processes(FlatModel(scenario.module).dimension) if name == "bfv" else 0,
        )
        for name in seconds
    }
    states = {name: federation.state for name, federation in federations.items()}
    sums = {name: federation.training_sums() for name, federation in federations.items()}
    for name in seconds:
        states[name] = _rounds(sums[name], plan.recipe, states[name], 1)
    for _ in range(blocks):
        for name in seconds:
            taken, states[name] = timed(lambda name=name: _rounds(sums[name], plan.recipe, states[name], block))
            seconds[name].append(taken / block)
    traffic = sums["bfv"].traffic[-1]
    for federation in federations.values():
        federation.close()
    return {
        "parameters": federations["bfv"].model.dimension,
        "milliseconds a round": {name: 1e3 * statistics.median(taken) for name, taken in seconds.items()},
        "bfv over plain, median of pairs": statistics.median(
            encrypted / plain for encrypted, plain in zip(seconds["bfv"], seconds["plain"], strict=True)
        ),
        "upload bytes a parameter, everything included": traffic.upload_bytes / federations["bfv"].model.dimension,
        "download bytes": traffic.download_bytes,
    }


def _rounds(sums: InProcessSums, recipe: Recipe, state: TrainingState, rounds: int) -> TrainingState:
    return train(sums, recipe, state, rounds)


if __name__ == "__main__":
    main()
