"""In turn: a block of rounds of secure_fu, and one of FedAvg, with all clients in both."""

from __future__ import annotations

import json
import time
from pathlib import Path

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from secure_fu.deployment.server import FederationServer, Patience
from secure_fu.flower.grid_exchange import GridExchange
from secure_fu.training import TrainingState

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    exchange = GridExchange(grid, poll_seconds=0.1)  # as Flower's own grid in simulations
    clients = len(exchange.nodes())
    patience = Patience(hello=600, begin=600, invite=600, opening=600, wipe=600)
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
    timings = Path(config["timings-directory"])
    pairs: list[dict[str, dict[str, float]]] = []
    started = _Clock(timings)

    def after_round(state: TrainingState) -> None:
        secure = started.since("secure")
        clock = _Clock(timings)
        strategy.start(grid, ArrayRecord([state.model.vector]), num_rounds=1)
        pairs.append({"secure": secure, "fedavg": clock.since("fedavg")})
        started.reset()

    with FederationServer.open(Path(config["server-directory"]), exchange, patience=patience) as server:
        started.reset()
        server.train(after_round, rounds=config["rounds"])
        traffic = server.training_traffic[-1]
    figures = {
        "pairs": pairs,
        "uploads": traffic.uploads,
        "upload bytes": traffic.upload_bytes,
        "download bytes": traffic.download_bytes,
        "parameter set": traffic.parameter_set,
    }
    Path(config["figures"]).write_text(json.dumps(figures))


class _Clock:
    """Wall time, processor time here, and what the clients have written down, since it was last set."""

    def __init__(self, timings: Path) -> None:
        self._timings = timings
        self.reset()

    def reset(self) -> None:
        self._told = _told(self._timings)
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def since(self, kind: str) -> dict[str, float]:
        taken = {"wall": time.perf_counter() - self._wall, "server cpu": time.process_time() - self._cpu}
        now = _told(self._timings)[kind]
        return taken | {key: value - self._told[kind][key] for key, value in now.items()}


def _told(timings: Path) -> dict[str, dict[str, float]]:
    """What the clients have written down so far, summed by kind."""
    sums: dict[str, dict[str, float]] = {"secure": {}, "fedavg": {}}
    for kind in sums:
        sums[kind] = dict.fromkeys(("messages", "wall", "cpu", "training wall", "training cpu"), 0.0)
    for path in timings.glob("*.jsonl"):
        for text in path.read_text().splitlines():
            line = json.loads(text)
            for key, value in line["spent"].items():
                sums[line["kind"]][key] += value
    return {kind: {f"client {key}": value for key, value in spent.items()} for kind, spent in sums.items()}
