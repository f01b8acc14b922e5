"""Training rounds under an encryption scheme over the same rounds with scheme `plain`, paired, and bytes on the wire.

Two federations of ten silos: the default preset's small MLP on digits, and an MLP of 1e5 parameters on MNIST. Clipping,
noise, clients' records and ledger are the same in both. What the scheme costs with it is counted: for `kahe` the
committee's work, its members' signatures and sealed shares, all done by this one machine.
"""

from __future__ import annotations

import statistics
from argparse import Namespace

from harness import arguments, report, timed

from secure_fu.config import SimulationConfig
from secure_fu.config_file import load_preset, with_overrides
from secure_fu.federation import Federation
from secure_fu.learning import FlatModel
from secure_fu.protocol import InProcessSums
from secure_fu.scenario import build_scenario
from secure_fu.simulation import encryption_processes, plan_of
from secure_fu.training import Recipe, TrainingState, train


def main() -> None:
    options = arguments(__doc__, data_dir=True, schemes=("kahe", "bfv"))
    block, blocks = (2, 2) if options.quick else (5, 10)
    figures: dict[str, object] = {"scheme": options.scheme}
    for preset in ("digits-silos", "mnist-silos"):
        config = with_overrides(load_preset(preset), ["deletion.joined_at=0"])
        figures[preset] = _compare(config, options, block, blocks)
    report(options, figures)


def _compare(config: SimulationConfig, options: Namespace, block: int, blocks: int) -> dict[str, object]:
    scenario = build_scenario(config, data_dir=options.data_dir)
    plan = plan_of(config, scenario)
    scheme = options.scheme
    seconds: dict[str, list[float]] = {"plain": [], scheme: []}
    workers = encryption_processes(FlatModel(scenario.module).dimension)
    federations = {
        name: Federation(
            scenario.module,
            scenario.clients,
            plan=plan,
            scheme_name=name,
            keep_history=False,
            encryption_processes=workers if name == "bfv" else 0,
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
    traffic = sums[scheme].traffic[-1]
    for federation in federations.values():
        federation.close()
    parameters = federations[scheme].model.dimension
    return {
        "parameters": parameters,
        "parameter set": traffic.parameter_set,
        "bits of a coordinate of a sum": traffic.digit_bits or None,
        "milliseconds a round": {name: 1e3 * statistics.median(taken) for name, taken in seconds.items()},
        f"{scheme} over plain, median of pairs": statistics.median(
            encrypted / plain for encrypted, plain in zip(seconds[scheme], seconds["plain"], strict=True)
        ),
        "upload bytes": traffic.upload_bytes,
        "upload bytes a parameter, everything included": traffic.upload_bytes / parameters,
        "download bytes": traffic.download_bytes,
    }


def _rounds(sums: InProcessSums, recipe: Recipe, state: TrainingState, rounds: int) -> TrainingState:
    return train(sums, recipe, state, rounds)


if __name__ == "__main__":
    main()
