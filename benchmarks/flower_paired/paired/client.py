"""Both clients: secure_fu's relay to its node, and a client of FedAvg with the same local training."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from paired.timings import as_training, write_down
from secure_fu.deployment.node import NodeDirectory
from secure_fu.flower.carrier import ACTION
from secure_fu.flower.client_app import node_folder, relay
from secure_fu.learning import FlatModel, LocalTraining, Records, client_update

app = ClientApp()
update = as_training(client_update)


@app.query(ACTION)
def secure(message: Message, context: Context) -> Message:
    return relay(message, context)


@app.train()
def plain(message: Message, context: Context) -> Message:
    folder = Path(context.run_config["timings-directory"])
    return write_down(folder, "fedavg", lambda: _trained(message, context))


@cache
def _own(nodes: Path, place: int) -> tuple[Records, FlatModel]:
    """A client's records and model, read once: what our nodes keep in memory need not be read here either."""
    directory = NodeDirectory.read(node_folder(nodes, place))
    (client,) = directory.clients
    return directory.data[client].read(), FlatModel(directory.module())


def _trained(message: Message, context: Context) -> Message:
    config = context.run_config
    records, model = _own(Path(config["nodes-directory"]), context.node_config["partition-id"])
    (vector,) = message.content["arrays"].to_numpy_ndarrays()
    change = update(
        model,
        vector.astype(np.float64),
        records,
        training=LocalTraining(
            epochs=config["epochs"], batch_size=config["batch-size"], learning_rate=config["learning-rate"]
        ),
        clip_norm=config["clip-norm"],
        seed=0,
    )
    content = RecordDict(
        {
            "arrays": ArrayRecord([(vector + change).astype(np.float32)]),
            "metrics": MetricRecord({"num-examples": len(records)}),
        }
    )
    return Message(content, reply_to=message)
