"""From a configuration to the cast of a simulation: clients with records, a model, a request, what is held out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secure_fu.config import DataConfig, SimulationConfig
from secure_fu.deletion import DeletionBatch, DeletionRequest
from secure_fu.errors import ConfigError, DataError
from secure_fu.learning import (
    Dataset,
    Records,
    Trigger,
    breast_cancer,
    by_column,
    by_label,
    cnn,
    csv_file,
    digits,
    dirichlet,
    idx_folder,
    iid,
    logistic,
    mlp,
    npz_file,
)
from secure_fu.privacy import Unit

__all__ = ["Scenario", "build_scenario"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scenario:
    """Who takes part, with what, and what is to be forgotten.

    Attributes:
        module: the model at its public starting point.
        model_name: for reports.
        clients: records by client name; those to be forgotten carry the trigger where there is one.
        classes: number of classes.
        test: records held out from everybody.
        held_out: like `test`, carrying the trigger where the forgotten records do.
        trigger: of the backdoor; None where there is none.
        request: the deletion request.
        joins: rounds done before a client joins, for late ones.
        dataset: description of the data.
    """

    module: nn.Module
    model_name: str
    clients: dict[str, Records]
    classes: int
    test: Records
    held_out: Records
    trigger: Trigger | None
    request: DeletionRequest | DeletionBatch
    joins: dict[str, int]
    dataset: str

    def count_units(self, unit: Unit) -> int:
        """How many units all clients hold together; a group that is at two clients counts twice.

        Raises:
            DataError: the unit is the group, and some client's records have no group column.
        """
        if unit is Unit.CLIENT:
            return len(self.clients)
        if unit is Unit.RECORD:
            return sum(len(records) for records in self.clients.values())
        count = 0
        for name, records in self.clients.items():
            if records.groups is None:
                raise DataError(f"the records of {name!r} have no groups; expected records with a group column")
            count += len(np.unique(records.groups))
        return count


def build_scenario(config: SimulationConfig, *, data_dir: Path | None = None) -> Scenario:
    """Load, split and mark data as a configuration says; everything here depends on the seed alone.

    Args:
        data_dir: folder or file with the data; takes the place of `data.path`.

    Raises:
        ConfigError: a key does not fit the data.
        DataError: the data is missing or malformed.
    """
    dataset = _load(config.data, config.seed, data_dir)
    parts = _partition(config.data, dataset.train, config.seed)
    width = len(str(config.data.clients - 1))
    names = [f"{config.data.client_prefix}-{index:0{max(2, width)}d}" for index in range(config.data.clients)]
    clients = {name: dataset.train.subset(part) for name, part in zip(names, parts, strict=True)}
    if config.training.unit == Unit.GROUP.value and dataset.train.groups is None:
        raise ConfigError("training.unit", config.training.unit, "record or client; these records have no group column")
    request = _request(config, clients)
    trigger = None
    held_out = dataset.test
    if config.deletion.backdoor:
        if config.deletion.backdoor_label >= dataset.classes:
            raise ConfigError(
                "deletion.backdoor_label", config.deletion.backdoor_label, f"a class below {dataset.classes}"
            )
        if len(dataset.train.shape) not in (2, 3):
            raise ConfigError(
                "deletion.backdoor",
                True,
                f"false; the trigger is a row of pixels, and records of shape {dataset.train.shape} are no images",
            )
        trigger = Trigger.top_row(dataset.train.shape, target=config.deletion.backdoor_label)
        held_out = trigger.poison(dataset.test)
        marks = request.identify_all(clients)
        clients = {name: _poison_marked(records, marks[name], trigger) for name, records in clients.items()}
    module, model_name = _model(config, dataset)
    joins = {}
    if config.deletion.joined_at:
        joins[_client_name(config, clients)] = config.deletion.joined_at
    return Scenario(
        module=module,
        model_name=model_name,
        clients=clients,
        classes=dataset.classes,
        test=dataset.test,
        held_out=held_out,
        trigger=trigger,
        request=request,
        joins=joins,
        dataset=dataset.description,
    )


def _load(data: DataConfig, seed: int, data_dir: Path | None) -> Dataset:
    if data.source == "digits":
        dataset = digits(seed=seed, test_fraction=data.test_fraction)
    elif data.source == "breast-cancer":
        dataset = breast_cancer(seed=seed, test_fraction=data.test_fraction)
    else:
        path = data_dir if data_dir is not None else Path(data.path) if data.path else None
        if path is None:
            raise ConfigError("data.path", "", f"the place of the {data.source} data; give it with --data-dir")
        dataset = _from_path(data, path, seed)
    if data.records and data.records > len(dataset.train):
        raise ConfigError("data.records", data.records, f"at most {len(dataset.train)}, the training records there are")
    if data.records:
        chosen = _generator(seed, "records").permutation(len(dataset.train))[: data.records]
        dataset = Dataset(
            train=dataset.train.subset(np.sort(chosen)),
            test=dataset.test,
            classes=dataset.classes,
            name=dataset.name,
            description=dataset.description,
        )
    return dataset


def _from_path(data: DataConfig, path: Path, seed: int) -> Dataset:
    if data.source == "idx":
        return idx_folder(path)
    if data.source == "csv":
        return csv_file(
            path,
            label_column=data.label_column,
            group_column=data.group_column or None,
            test_fraction=data.test_fraction,
            seed=seed,
        )
    return npz_file(path, test_fraction=data.test_fraction, seed=seed)


def _partition(data: DataConfig, records: Records, seed: int) -> list[NDArray[np.int64]]:
    if data.partition == "iid":
        return iid(records, data.clients, seed)
    if data.partition == "dirichlet":
        return dirichlet(records, data.clients, seed, alpha=data.alpha)
    if data.partition == "label":
        return by_label(records, data.clients, seed)
    return by_column(records, data.clients, seed)


def _client_name(config: SimulationConfig, clients: dict[str, Records]) -> str:
    return config.deletion.client or max(clients)


def _request(config: SimulationConfig, clients: dict[str, Records]) -> DeletionRequest | DeletionBatch:
    deletion = config.deletion
    name = _client_name(config, clients)
    if deletion.client and deletion.client not in clients:
        raise ConfigError("deletion.client", deletion.client, f"one of {min(clients)} to {max(clients)}")
    if deletion.scope == "client":
        return DeletionRequest.whole_client(name)
    if deletion.scope == "group":
        _check_groups(deletion.groups, [clients[name]] if deletion.client else list(clients.values()))
        return DeletionRequest.person(*deletion.groups, client=deletion.client or None)
    if deletion.scope == "class":
        return DeletionRequest.whole_class(deletion.label, client=deletion.client or None)
    if deletion.fraction:
        return _fraction_of(config, {name: clients[name]} if deletion.client else clients)
    available = len(clients[name])
    if deletion.count > available:
        raise ConfigError("deletion.count", deletion.count, f"at most {available}, the records that {name} has")
    chosen = _generator(config.seed, "deletion").permutation(available)[: deletion.count]
    return DeletionRequest.some_records(name, tuple(int(index) for index in np.sort(chosen)))


def _fraction_of(config: SimulationConfig, clients: dict[str, Records]) -> DeletionBatch:
    """So many of each client's records, chosen by the seed; at least one of somebody's."""
    requests = []
    for client, records in clients.items():
        count = round(config.deletion.fraction * len(records))
        if count:
            chosen = _generator(config.seed, f"deletion/{client}").permutation(len(records))[:count]
            requests.append(DeletionRequest.some_records(client, tuple(int(index) for index in np.sort(chosen))))
    if not requests:
        raise ConfigError("deletion.fraction", config.deletion.fraction, "a fraction that is one record or more")
    return DeletionBatch(tuple(requests))


def _check_groups(groups: tuple[str, ...], asked: list[Records]) -> None:
    present: set[str] = set()
    for records in asked:
        if records.groups is None:
            raise ConfigError("deletion.scope", "group", "client or records; these records have no group column")
        present.update(records.groups.tolist())
    for group in groups:
        if group not in present:
            raise ConfigError(
                "deletion.groups", group, "values of the group column that training records of the client have"
            )


def _poison_marked(records: Records, marked: NDArray[np.bool_], trigger: Trigger) -> Records:
    if not marked.any():
        return records
    poisoned = trigger.poison(records)
    features, labels = records.features.clone(), records.labels.clone()
    features[marked] = poisoned.features[marked]
    labels[marked] = poisoned.labels[marked]
    return Records(features, labels, records.groups)


def _model(config: SimulationConfig, dataset: Dataset) -> tuple[nn.Module, str]:
    inputs = dataset.train.width
    if config.model.kind == "logistic":
        return logistic(inputs, dataset.classes, seed=config.seed), f"logistic {inputs}-{dataset.classes}"
    if config.model.kind == "cnn":
        shape = dataset.train.shape
        if len(shape) not in (2, 3):
            expected = f"mlp or logistic; records of shape {shape} are no images"
            raise ConfigError("model.kind", config.model.kind, expected)
        image = "x".join(str(size) for size in shape)
        layers = "-".join(str(size) for size in (image, *config.model.channels, dataset.classes))
        return cnn(shape, config.model.channels, dataset.classes, seed=config.seed), f"CNN {layers}"
    layers = "-".join(str(size) for size in (inputs, *config.model.hidden, dataset.classes))
    return mlp(inputs, config.model.hidden, dataset.classes, seed=config.seed), f"MLP {layers}"


def _generator(seed: int, purpose: str) -> np.random.Generator:
    """A generator for scenarios, never for noise, sampling in silos or keys."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:8], "big"))
