"""A small secure simulation from Python: five clinics, one joins late with a backdoor in its records, and leaves.

Run it as `python secure_simulation.py --out DIR`. It writes what `secure-fu simulate` writes: DIR/report.html,
DIR/result.json, models, ledger and transcript.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from secure_fu.config import (
    DataConfig,
    DeletionConfig,
    PrivacyConfig,
    ProtocolConfig,
    SimulationConfig,
    TrainingConfig,
    UnlearningConfig,
)
from secure_fu.learning import limit_threads
from secure_fu.report import terminal_table
from secure_fu.simulation import Simulation

CONFIG = SimulationConfig(
    name="five-clinics",
    description="Five clinics train on scanned digits; the last one joins after 10 of 20 rounds, and leaves.",
    data=DataConfig(source="digits", clients=5, client_prefix="clinic"),
    training=TrainingConfig(rounds=20, learning_rate=0.5, sampling_rate=0.25),
    privacy=PrivacyConfig(epsilon=8.0, delta=1e-5),
    protocol=ProtocolConfig(scheme="kahe", minimum_cohort=4, colluders=1),
    deletion=DeletionConfig(scope="client", joined_at=10, backdoor=True),
    unlearning=UnlearningConfig(methods=("rollback", "finetune"), settings={"finetune": {"length": 5}}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="A small secure simulation.")
    parser.add_argument("--out", type=Path, default=Path("secure-simulation"), help="run directory, new or empty")
    out = parser.parse_args().out
    limit_threads()
    result = Simulation(CONFIG, out).run()
    Console().print(terminal_table(result))
    print(f"Report: {out / 'report.html'}")


if __name__ == "__main__":
    main()
