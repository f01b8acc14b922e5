"""Rounds of secure_fu over the same rounds of Flower's FedAvg, in turn in one run of Flower's simulation engine.

A hundred clients with a few digits each and an MLP of 1e5 parameters; privacy unit client, scheme kahe, a committee of
ten that ten of the nodes host, sums of 16 bits. Local training is the same code in both and is taken out: what is left
of FedAvg's rounds is Flower's transport and averaging; what is left of secure_fu's is that, noise, encryption, records,
votes and opening. One actor of the engine answers for all clients, one after another; it relays secure_fu's messages
to one process that hosts all nodes. A round of one and a round of the other are run in turn; the first pair warms up.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import arguments, report
from sklearn.datasets import load_digits

from secure_fu.crypto import Role
from secure_fu.deletion.policy import DeletionPolicy
from secure_fu.deployment.exchange.node_socket import SOCKET
from secure_fu.deployment.founding.bundle import BUNDLE_FILES, found, node_file, write_bundle
from secure_fu.deployment.founding.setup import make_keys, make_roster, read_party_file
from secure_fu.deployment.founding.terms import Terms, model_of
from secure_fu.deployment.local import LocalNodes
from secure_fu.deployment.node import Node
from secure_fu.file_names import KEYS
from secure_fu.flower.local import LocalFlower
from secure_fu.learning import FlatModel
from secure_fu.privacy import Unit
from secure_fu.protocol import GridKind
from secure_fu.unlearning import Retrain

APP = Path(__file__).with_name("flower_paired")
MEMBERS = 10
LOCAL = {"epochs": 5, "batch_size": 10, "learning_rate": 0.1}  # FedAvg's own E and B


def main() -> None:
    options = arguments(__doc__)
    clients, rounds = (12, 3) if options.quick else (100, 11)
    with tempfile.TemporaryDirectory(prefix="fu") as name:
        folder = Path(name)
        terms = _terms(clients, rounds)
        _make(folder, terms, clients)
        figures = _run(folder, clients, rounds)
    report(options, _judged(figures, terms, clients), packages=("flwr", "ray"))


def _terms(clients: int, rounds: int) -> Terms:
    return Terms(
        model={"kind": "mlp", "inputs": 64, "hidden": [272, 291], "classes": 10, "seed": 0},
        plan={
            "unit": Unit.CLIENT,
            "nominal_units": clients,
            "minimum_cohort": clients - clients // 10,
            "colluders": clients // 10,
            "rounds": rounds,
            "sampling_rate": 1.0,
            "local": LOCAL,
            "grid": GridKind.ROTATED,
            "sum_bits": 16,
        },
        scheme="kahe",
        committee={"threshold": 7, "quorum": 7, "corrupt": 3},
        methods=(Retrain(),),
        deletion=DeletionPolicy(window_start=0, window_seconds=86400),
    )


def _make(folder: Path, terms: Terms, clients: int) -> None:
    features, labels = load_digits(return_X_y=True)
    parts = np.array_split(np.arange(len(labels)), clients)
    server, nodes = folder / "server", folder / "nodes"
    public = list(make_keys(server, {"server": Role.SERVER}).values())
    for number in range(clients):
        roles = {f"phone-{number:03}": Role.CLIENT}
        if number < MEMBERS:
            roles[f"member-{number}"] = Role.MEMBER
        public += make_keys(nodes / f"node-{number:03}", roles).values()
    found(terms, make_roster(read_party_file(path) for path in public), server, keys=server / KEYS)
    write_bundle(server, folder / "bundle")
    for number, rows in enumerate(parts):
        node = nodes / f"node-{number:03}"
        for file in BUNDLE_FILES:
            shutil.copyfile(folder / "bundle" / file, node / file)
        np.savez(node / "records.npz", features=features[rows] / 16.0, labels=labels[rows])
        names = (f"phone-{number:03}", *((f"member-{number}",) if number < MEMBERS else ()))
        (node / "node.toml").write_text(node_file(names, terms.model, has_data=True))
        Node.create(node).close()


def _run(folder: Path, clients: int, rounds: int) -> dict[str, Any]:
    timings = folder / "timings"
    timings.mkdir()
    config = {
        "server-directory": str(folder / "server"),
        "nodes-directory": str(folder / "nodes"),
        "timings-directory": str(timings),
        "figures": str(folder / "figures.json"),
        "rounds": rounds,
        "epochs": LOCAL["epochs"],
        "batch-size": LOCAL["batch_size"],
        "learning-rate": LOCAL["learning_rate"],
    }
    one_actor = {"num-supernodes": clients, "client-resources-num-cpus": 1, "init-args-num-cpus": 1}
    nodes = LocalNodes(
        {"nodes": folder / "nodes"},
        {"nodes": folder / "nodes" / f"node-{clients - 1:03}" / SOCKET},
        logs=folder / "logs",
        command=lambda directory, _: [sys.executable, str(APP / "timed_nodes.py"), str(directory), str(timings)],
    )
    with nodes, LocalFlower(folder / "flower", {}) as flower:
        outcome = flower.run(APP, config, federation_config=one_actor, timeout=3600)
        if outcome.status != "finished:completed":
            raise SystemExit(outcome.log)
    return dict(json.loads((folder / "figures.json").read_text()))


def _judged(figures: dict[str, Any], terms: Terms, clients: int) -> dict[str, object]:
    pairs = figures["pairs"][1:]

    def seconds(one: dict[str, float]) -> float:
        return one["wall"] - one["client training wall"]

    def processor(one: dict[str, float]) -> float:
        return one["server cpu"] + one["client cpu"] - one["client training cpu"]

    def median(measure: Callable[[dict[str, float]], float]) -> dict[str, float]:
        return {name: statistics.median(measure(pair[name]) for pair in pairs) for name in ("secure", "fedavg")}

    return {
        "clients": clients,
        "parameters": FlatModel(model_of(terms.model)).dimension,
        "pairs": len(pairs),
        "seconds of a whole round": median(lambda one: one["wall"]),
        "seconds of local training in it": median(lambda one: one["client training wall"]),
        "seconds of all but local training": median(seconds),
        "processor seconds of server and nodes, all but local training": median(processor),
        "all but local training of secure_fu over a whole round of FedAvg, median of pairs": statistics.median(
            seconds(pair["secure"]) / pair["fedavg"]["wall"] for pair in pairs
        ),
        "all but local training of secure_fu over that of FedAvg, median of pairs": statistics.median(
            seconds(pair["secure"]) / seconds(pair["fedavg"]) for pair in pairs
        ),
        "messages a round": median(lambda one: one["client messages"]),
        "seconds at the nodes, all but local training": median(
            lambda one: one["client wall"] - one["client training wall"]
        ),
        **{name: figures[name] for name in ("uploads", "upload bytes", "download bytes", "parameter set")},
    }


if __name__ == "__main__":
    main()
