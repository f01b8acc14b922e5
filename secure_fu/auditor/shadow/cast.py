"""Who takes part in shadow runs, and whose data the runs forget, keep or leave out."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secure_fu.audit.deletion import secret_parts
from secure_fu.auditor.outcome import TargetKind
from secure_fu.config import SimulationConfig
from secure_fu.errors import ArgumentError
from secure_fu.learning import Records
from secure_fu.planning import Plan
from secure_fu.privacy import Unit
from secure_fu.scenario import build_scenario
from secure_fu.simulation import plan_of
from secure_fu.unlearning import Retrain, UnlearningMethod, method_from_settings

__all__ = ["ShadowCast", "Targets", "choose_targets", "seed_of"]

_RECORDS = 120  # of a target pool, unless asked otherwise


@dataclass(frozen=True, kw_only=True, eq=False)
class ShadowCast:
    """A federation to be run many times.

    Attributes:
        module: the model at its public starting point.
        clients: records by client name.
        test: records that nobody has.
        plan: of the federation.
        methods: that are audited; retraining always is.
        joins: rounds done before a client joins, for late ones.
        dropout: chance that an invited client does not answer a round.
        leaving: clients that hold what the scenario's own request is about; targets are chosen like them.
        config, data_dir, backdoor: what :meth:`of` made it from, for processes to make it again; None where it was not
            made so, or was changed since.
    """

    module: nn.Module
    clients: Mapping[str, Records]
    test: Records
    plan: Plan
    methods: tuple[UnlearningMethod, ...]
    joins: Mapping[str, int] = field(default_factory=dict)
    dropout: float = 0.0
    leaving: tuple[str, ...] = ()
    config: SimulationConfig | None = field(default=None, init=False)
    data_dir: Path | None = field(default=None, init=False)
    backdoor: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        if len(set(names)) != len(names):
            raise ArgumentError("methods", names, "names without repeats")
        strangers = [name for name in (*self.joins, *self.leaving) if name not in self.clients]
        if strangers:
            raise ArgumentError("joins or leaving", strangers[:3], f"names among the {len(self.clients)} clients")
        if not 0.0 <= self.dropout < 1.0:
            raise ArgumentError("dropout", self.dropout, "a number in [0, 1)")

    @classmethod
    def of(cls, config: SimulationConfig, *, data_dir: Path | None = None, backdoor: bool = False) -> ShadowCast:
        """The cast of a simulation.

        Args:
            data_dir: takes the place of `data.path`.
            backdoor: whether the scenario's trigger stays where it has one. Without it the records are as they were: a
                trigger is so easy to see that it would stand for the data, and the audit would tell of it alone.

        Raises:
            ConfigError, DataError, BudgetExceededError, UnattainableEpsilonError: as a simulation does.
        """
        used = config if backdoor else replace(config, deletion=replace(config.deletion, backdoor=False))
        scenario = build_scenario(used, data_dir=data_dir)
        marks = scenario.request.identify_all(scenario.clients)
        settings = config.unlearning.settings
        cast = cls(
            module=scenario.module,
            clients=scenario.clients,
            test=scenario.test,
            plan=plan_of(used, scenario),
            methods=tuple(method_from_settings(name, settings.get(name, {})) for name in config.unlearning.methods),
            joins=scenario.joins,
            dropout=config.protocol.dropout,
            leaving=tuple(name for name, mask in marks.items() if mask.any()),
        )
        for name, value in (("config", config), ("data_dir", data_dir), ("backdoor", backdoor)):
            object.__setattr__(cast, name, value)
        return cast

    @property
    def audited(self) -> tuple[UnlearningMethod, ...]:
        """The methods beside retraining, which is run as reference and as control."""
        return tuple(method for method in self.methods if not isinstance(method, Retrain))


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """The u target units: in each run a third of them is forgotten, a third retained, and a third was never there.

    Thirds are drawn within a stratum, so that how many records a client holds, and is to forget, is public and the same
    in all runs.

    Attributes:
        clients: where each unit is.
        positions: the unit's records at its client, int64, ascending; no record is in two units.
        strata: number of the stratum that each unit belongs to, shape (u,); the size of each is a multiple of 3.

    Raises:
        ArgumentError: lengths differ, a unit without records, or a stratum that has no thirds.
    """

    clients: tuple[str, ...]
    positions: tuple[NDArray[np.int64], ...]
    strata: NDArray[np.int64]

    def __post_init__(self) -> None:
        count = len(self.clients)
        if len(self.positions) != count or self.strata.shape != (count,):
            raise ArgumentError("positions or strata", f"for {len(self.positions)} units", f"for {count} units")
        if not count or any(len(own) == 0 for own in self.positions):
            raise ArgumentError("positions", "a unit without records, or no unit", "units of at least one record")
        _, sizes = np.unique(self.strata, return_counts=True)
        if (sizes % 3).any():
            raise ArgumentError("strata", f"of {sizes.tolist()} units", "sizes that are multiples of 3")
        taken = {
            (client, int(place)) for client, own in zip(self.clients, self.positions, strict=True) for place in own
        }
        if len(taken) != sum(len(own) for own in self.positions):
            raise ArgumentError("positions", "a record in two units", "each record in at most one unit")

    def __len__(self) -> int:
        return len(self.clients)

    def parts(self, runs: int, *, seed: int) -> NDArray[np.int8]:
        """What each unit is in each run, drawn for each run on its own: int8 (runs, u), of `secure_fu.audit.Part`."""
        parts = np.zeros((runs, len(self)), dtype=np.int8)
        for number in np.unique(self.strata):
            places = np.flatnonzero(self.strata == number)
            parts[:, places] = secret_parts(runs, len(places), seed=seed_of(f"parts/{seed}/{number}"))
        return parts

    def marks(self, clients: Mapping[str, Records], chosen: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
        """The records of the chosen units (u,), as a mark for each client."""
        marks = {name: np.zeros(len(records), dtype=np.bool_) for name, records in clients.items()}
        for unit in np.flatnonzero(chosen):
            marks[self.clients[unit]][self.positions[unit]] = True
        return marks

    def records(self, clients: Mapping[str, Records]) -> tuple[Records, NDArray[np.int64]]:
        """The t records of the units, unit after unit, without groups, and the unit of each, shape (t,)."""
        parts = [clients[name].subset(own) for name, own in zip(self.clients, self.positions, strict=True)]
        units = np.repeat(np.arange(len(self)), [len(own) for own in self.positions])
        return _joined(parts), units.astype(np.int64)

    def others(self, clients: Mapping[str, Records]) -> Records | None:
        """All records of no unit; None where there are none."""
        marks = self.marks(clients, np.ones(len(self), dtype=np.bool_))
        left = [records.subset(~marks[name]) for name, records in clients.items() if not marks[name].all()]
        return _joined(left) if left else None


def choose_targets(
    cast: ShadowCast,
    *,
    kind: TargetKind | None = None,
    count: int | None = None,
    clients: Collection[str] | None = None,
    seed: int,
) -> Targets:
    """Choose target units by the seed.

    Args:
        kind: None for clients under the client unit, and otherwise records.
        count: of units, rounded down to a multiple of 3. None for 120 records, or fewer where clients are small; or for
            a tenth of the clients, at least 3 and at most 60.
        clients: whom to choose from. None: for records, the clients that joined when those did that the scenario's
            own request is about, so that a rollback goes as far back as it does there; for clients all, those of the
            request first.

    Raises:
        ArgumentError: an unknown client, fewer than 3 units to choose from, or records of clients that are the unit.
    """
    unit = cast.plan.recipe.unit
    chosen_kind = kind or (TargetKind.CLIENTS if unit is Unit.CLIENT else TargetKind.RECORDS)
    if unit is Unit.CLIENT and chosen_kind is TargetKind.RECORDS:
        raise ArgumentError("kind", chosen_kind.value, "clients: the privacy unit is the client")
    unknown = [] if clients is None else [name for name in clients if name not in cast.clients]
    if unknown:
        raise ArgumentError("clients", unknown[:3], f"names among the {len(cast.clients)} clients")
    generator = np.random.default_rng(seed_of(f"targets/{seed}"))
    if chosen_kind is TargetKind.CLIENTS:
        return _whole_clients(cast, count, clients, generator)
    if clients is None:
        like = {cast.joins.get(name, 0) for name in cast.leaving}
        clients = [name for name in cast.clients if not like or cast.joins.get(name, 0) in like]
    return _records(cast, _RECORDS if count is None else count, sorted(clients), generator, given=count is not None)


def _whole_clients(
    cast: ShadowCast, count: int | None, clients: Collection[str] | None, generator: np.random.Generator
) -> Targets:
    names = sorted(cast.clients if clients is None else clients)
    names = [names[place] for place in generator.permutation(len(names))]
    names.sort(key=lambda name: name not in cast.leaving)  # stable: those of the request first
    wanted = min(60, max(3, len(cast.clients) // 10)) if count is None else count
    wanted -= wanted % 3
    if not 3 <= wanted <= len(names):
        raise ArgumentError("count", wanted, f"3 to {len(names)}, the clients to choose from")
    chosen = tuple(sorted(names[:wanted]))
    return Targets(
        clients=chosen,
        positions=tuple(np.arange(len(cast.clients[name]), dtype=np.int64) for name in chosen),
        strata=np.zeros(wanted, dtype=np.int64),
    )


def _records(cast: ShadowCast, count: int, names: list[str], generator: np.random.Generator, *, given: bool) -> Targets:
    """Units of three at a time from one client after the other, so that every client keeps some."""
    units = {name: _units_of(cast.clients[name], cast.plan.recipe.unit) for name in names}
    room = {name: (len(own) - 1) // 3 for name, own in units.items()}
    triples = min(count // 3, sum(room.values()))
    if triples < 1 or (given and triples < count // 3):
        raise ArgumentError("count", count, f"3 to {3 * sum(room.values())}, as the clients to choose from have")
    taken = dict.fromkeys(names, 0)
    order = [names[place] for place in generator.permutation(len(names))]
    while sum(taken.values()) < triples:
        for name in order:
            if taken[name] < room[name] and sum(taken.values()) < triples:
                taken[name] += 1
    clients: list[str] = []
    positions: list[NDArray[np.int64]] = []
    strata: list[int] = []
    for number, name in enumerate(names):
        chosen = np.sort(generator.permutation(len(units[name]))[: 3 * taken[name]])
        clients += [name] * len(chosen)
        positions += [units[name][place] for place in chosen]
        strata += [number] * len(chosen)
    return Targets(clients=tuple(clients), positions=tuple(positions), strata=np.array(strata, dtype=np.int64))


def _units_of(records: Records, unit: Unit) -> list[NDArray[np.int64]]:
    """Positions of the records of each unit."""
    if unit is Unit.GROUP and records.groups is not None:
        owner = np.unique(records.groups, return_inverse=True)[1]
        return [np.flatnonzero(owner == number) for number in range(int(owner.max(initial=-1)) + 1)]
    return [np.array([place], dtype=np.int64) for place in range(len(records))]


def _joined(parts: list[Records]) -> Records:
    return Records(torch.cat([part.features for part in parts]), torch.cat([part.labels for part in parts]))


def seed_of(text: str) -> int:
    """A seed of 128 bits for one purpose of the shadow runs, and for nothing else in this project."""
    return int.from_bytes(hashlib.sha256(f"secure-fu/shadow-runs/{text}".encode()).digest()[:16], "big")
