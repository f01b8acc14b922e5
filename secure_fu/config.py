"""The configuration of a simulation: frozen, checked when made; read and written by :mod:`~secure_fu.config_file`."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from secure_fu.errors import ConfigError
from secure_fu.scheme_names import KAHE, SCHEMES

__all__ = [
    "DataConfig",
    "DeletionConfig",
    "ModelConfig",
    "PrivacyConfig",
    "ProtocolConfig",
    "SimulationConfig",
    "TrainingConfig",
    "UnlearningConfig",
]

Scalar = str | int | float | bool

# A name becomes part of a folder's name, a prefix part of the names that clients are pinned under.
_WIDEST = 65536  # of a hidden layer: more is a slip of the finger, and would fail for want of memory
_MOST_CHANNELS = 4096  # of a convolution, for the same reason
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}")


def one_of(key: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(key, value, f"one of {', '.join(known)}{hint}")


def _at_least(key: str, value: float, least: float) -> None:
    if not least <= value < float("inf"):
        raise ConfigError(key, value, f"a finite number of at least {least}")


def _name(key: str, value: str) -> None:
    if not _NAME.fullmatch(value):
        raise ConfigError(key, value, "1 to 48 characters of A-Z a-z 0-9 . _ -, the first a letter or a digit")


def _positive(key: str, value: float) -> None:
    if not 0.0 < value < float("inf"):
        raise ConfigError(key, value, "a positive finite number")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where records come from and how they are spread over clients.

    Attributes:
        source: `digits`, `breast-cancer`, `idx` (a folder of IDX files), `csv` or `npz`.
        path: of the folder or file, for the last three; `--data-dir` overrides it.
        label_column, group_column: names of CSV columns (`groups` is an array of that name in an NPZ file).
        test_fraction: of the records, held out, where the source does not bring a test set.
        clients: how many; named `<client_prefix>-00` and so on.
        partition: `iid`, `dirichlet`, `label` or `group`.
        alpha: of the Dirichlet partition.
        records: use only this many training records, chosen by the seed; 0 for all.
    """

    source: str
    path: str = ""
    label_column: str = "label"
    group_column: str = ""
    test_fraction: float = 0.2
    clients: int = 10
    client_prefix: str = "silo"
    partition: str = "iid"
    alpha: float = 0.5
    records: int = 0

    def __post_init__(self) -> None:
        one_of("data.source", self.source, ("digits", "breast-cancer", "idx", "csv", "npz"))
        one_of("data.partition", self.partition, ("iid", "dirichlet", "label", "group"))
        if not 0.0 < self.test_fraction < 1.0:
            raise ConfigError("data.test_fraction", self.test_fraction, "a number between 0 and 1, both excluded")
        _at_least("data.clients", self.clients, 2)
        _name("data.client_prefix", self.client_prefix)
        _positive("data.alpha", self.alpha)
        _at_least("data.records", self.records, 0)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model: `mlp` with hidden layers, `logistic`, or `cnn` with convolutions, for images.

    Attributes:
        kind: `mlp`, `logistic` or `cnn`.
        hidden: widths of the hidden layers of `mlp`.
        channels: outputs of each convolution of `cnn`.
    """

    kind: str = "mlp"
    hidden: tuple[int, ...] = (32,)
    channels: tuple[int, ...] = (8, 16)

    def __post_init__(self) -> None:
        one_of("model.kind", self.kind, ("mlp", "logistic", "cnn"))
        if self.kind == "mlp" and (not self.hidden or min(self.hidden) < 1):
            raise ConfigError("model.hidden", list(self.hidden), "a list of at least one positive width")
        if max(self.hidden) > _WIDEST:
            raise ConfigError("model.hidden", list(self.hidden), f"widths of at most {_WIDEST}")
        if not self.channels or not all(1 <= channels <= _MOST_CHANNELS for channels in self.channels):
            expected = f"a list of at least one number from 1 to {_MOST_CHANNELS}"
            raise ConfigError("model.channels", list(self.channels), expected)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the model is trained; see :class:`secure_fu.training.Recipe`.

    Attributes:
        unit: `record`, `group` or `client`.
        nominal_units: public number of units that the federation is designed for, which sums are divided by; 0 takes
            the number that the data set has, itself taken as public.
        weight_decay: lambda of the L2 term lambda / 2 |w|^2; above 0 for certified `newton`.
        checkpoint_every: the public grid, in rounds, of the states of training that the server keeps for `rollback`.
        checkpoint_limit: most states that it keeps; one more, and the grid's spacing doubles.
        local_epochs, local_batch_size, local_learning_rate: for the client unit.
    """

    unit: str = "record"
    rounds: int = 100
    learning_rate: float = 0.3
    momentum: float = 0.9
    clip_norm: float = 1.0
    sampling_rate: float = 0.25
    nominal_units: int = 0
    weight_decay: float = 0.0
    checkpoint_every: int = 10
    checkpoint_limit: int = 32
    local_epochs: int = 1
    local_batch_size: int = 20
    local_learning_rate: float = 0.1

    def __post_init__(self) -> None:
        one_of("training.unit", self.unit, ("record", "group", "client"))
        _at_least("training.rounds", self.rounds, 1)
        _positive("training.learning_rate", self.learning_rate)
        _positive("training.clip_norm", self.clip_norm)
        if not 0.0 <= self.momentum < 1.0:
            raise ConfigError("training.momentum", self.momentum, "a number in [0, 1)")
        if not 0.0 < self.sampling_rate <= 1.0:
            raise ConfigError("training.sampling_rate", self.sampling_rate, "a number in (0, 1]")
        if self.unit == "client" and self.sampling_rate != 1.0:
            raise ConfigError("training.sampling_rate", self.sampling_rate, "1.0 for the client unit")
        _at_least("training.nominal_units", self.nominal_units, 0)
        _at_least("training.weight_decay", self.weight_decay, 0.0)
        _at_least("training.checkpoint_every", self.checkpoint_every, 1)
        _at_least("training.checkpoint_limit", self.checkpoint_limit, 2)
        _at_least("training.local_epochs", self.local_epochs, 1)
        _at_least("training.local_batch_size", self.local_batch_size, 1)
        _positive("training.local_learning_rate", self.local_learning_rate)


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """The budget of each unit, for training and one unlearning branch together.

    Attributes:
        epsilon, delta: the budget.
        noise_multiplier: 0 takes the smallest that keeps training and the longest branch within the budget.
        least_noise_multiplier: what clients accept as the least noise of a round; 0 for that of training.
        deletion_reserve: fraction of the Renyi budget that training leaves untouched, so that a deletion is never
            blocked.
    """

    epsilon: float = 8.0
    delta: float = 1e-5
    noise_multiplier: float = 0.0
    least_noise_multiplier: float = 0.0
    deletion_reserve: float = 0.5

    def __post_init__(self) -> None:
        _positive("privacy.epsilon", self.epsilon)
        if not 0.0 < self.delta < 1.0:
            raise ConfigError("privacy.delta", self.delta, "a number between 0 and 1, both excluded")
        for key in ("noise_multiplier", "least_noise_multiplier"):
            _at_least(f"privacy.{key}", getattr(self, key), 0.0)
        if not 0.0 <= self.deletion_reserve < 1.0:
            raise ConfigError("privacy.deletion_reserve", self.deletion_reserve, "a number in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """The secure sum.

    Attributes:
        scheme: `kahe`, opened by a committee; `bfv`, opened by a key-holder, which assumes more honesty; or `plain` for
            comparison only: it is insecure.
        minimum_cohort: fewer uploads than this are never opened.
        colluders: clients that may omit their noise or pool what they know; minimum_cohort - colluders is at least 2.
        dropout: chance that an invited client does not answer a round; a simulated accident, drawn from the seed.
        members: size of the committee.
        corrupt: members that may pool all they know with the server; threshold is above it.
        threshold: members that open a sum.
        quorum: members that have to agree on one roll; 2 * quorum is above members + corrupt.
        member_dropout: chance that a member is away, drawn anew before it votes and before it answers.
        grid: `fine`, or `rotated` for sums of `sum_bits` bits: client unit and scheme `kahe` only.
        sum_bits: width of a coordinate of a sum on the rotated grid.
    """

    scheme: str = KAHE
    minimum_cohort: int = 9
    colluders: int = 1
    dropout: float = 0.0
    members: int = 10
    corrupt: int = 3
    threshold: int = 7
    quorum: int = 7
    member_dropout: float = 0.0
    grid: str = "fine"
    sum_bits: int = 16

    def __post_init__(self) -> None:
        one_of("protocol.scheme", self.scheme, SCHEMES)
        one_of("protocol.grid", self.grid, ("fine", "rotated"))
        if self.grid == "rotated" and self.scheme != KAHE:
            raise ConfigError("protocol.grid", self.grid, f"fine, with scheme {self.scheme}")
        _at_least("protocol.corrupt", self.corrupt, 0)
        if not 1 <= self.members <= 1024:
            raise ConfigError("protocol.members", self.members, "a whole number from 1 to 1024")
        if not self.corrupt < self.threshold <= self.members:
            raise ConfigError(
                "protocol.threshold",
                self.threshold,
                f"a whole number above protocol.corrupt, {self.corrupt}, and at most protocol.members, {self.members}",
            )
        least = (self.members + self.corrupt) // 2 + 1
        if not least <= self.quorum <= self.members:
            raise ConfigError(
                "protocol.quorum",
                self.quorum,
                f"a whole number from {least}, so that 2 * quorum > members + corrupt, to {self.members}",
            )
        if not 8 <= self.sum_bits <= 32:
            raise ConfigError("protocol.sum_bits", self.sum_bits, "a whole number from 8 to 32")
        _at_least("protocol.colluders", self.colluders, 0)
        if self.minimum_cohort - self.colluders < 2:
            raise ConfigError(
                "protocol.minimum_cohort", self.minimum_cohort, f"at least {self.colluders + 2}, colluders + 2"
            )
        for key in ("dropout", "member_dropout"):
            if not 0.0 <= getattr(self, key) < 1.0:
                raise ConfigError(f"protocol.{key}", getattr(self, key), "a number in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class DeletionConfig:
    """What is to be forgotten.

    Attributes:
        scope: `client` (it leaves), `group` (persons, by the group column), `records` or `class`.
        client: name of the client concerned; empty for the last one, or, for groups, classes and a fraction of the
            records, wherever they are.
        groups: values of the group column, for scope `group`.
        count: how many of the client's records, chosen by the seed, for scope `records`.
        fraction: of the client's records, or of every client's, in place of `count`.
        label: of the class, for scope `class`.
        joined_at: the client joins after this many rounds.
        backdoor: whether all records to be forgotten carry a trigger, so that their influence is visible.
        backdoor_label: class that the trigger stands for.
    """

    scope: str = "client"
    client: str = ""
    groups: tuple[str, ...] = ()
    count: int = 0
    fraction: float = 0.0
    label: int = 0
    joined_at: int = 0
    backdoor: bool = False
    backdoor_label: int = 0

    def __post_init__(self) -> None:
        one_of("deletion.scope", self.scope, ("client", "group", "records", "class"))
        _at_least("deletion.label", self.label, 0)
        if not 0.0 <= self.fraction < 1.0:
            raise ConfigError("deletion.fraction", self.fraction, "a number in [0, 1)")
        _at_least("deletion.joined_at", self.joined_at, 0)
        _at_least("deletion.backdoor_label", self.backdoor_label, 0)
        if self.scope == "group" and not self.groups:
            raise ConfigError("deletion.groups", list(self.groups), "at least one value of the group column")
        if self.scope == "records" and self.count < 1 and not self.fraction:
            raise ConfigError("deletion.count", self.count, "at least 1 for scope records, or deletion.fraction")
        if self.count and self.fraction:
            raise ConfigError("deletion.fraction", self.fraction, f"0 beside deletion.count = {self.count}")


@dataclass(frozen=True, kw_only=True)
class UnlearningConfig:
    """Which methods run beside retraining, and their settings by method name (`[unlearning.settings.scrub]`)."""

    methods: tuple[str, ...] = ("rollback", "scrub", "correction", "finetune", "scratch")
    settings: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "retrain" in self.methods:
            raise ConfigError("unlearning.methods", list(self.methods), "methods without 'retrain', which always runs")
        if len(set(self.methods)) != len(self.methods):
            raise ConfigError("unlearning.methods", list(self.methods), "names without repeats")


@dataclass(frozen=True, kw_only=True)
class SimulationConfig:
    """One simulation, in full."""

    name: str
    description: str = ""
    seed: int = 0
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    deletion: DeletionConfig = field(default_factory=DeletionConfig)
    unlearning: UnlearningConfig = field(default_factory=UnlearningConfig)

    def __post_init__(self) -> None:
        _name("name", self.name)
        _at_least("seed", self.seed, 0)
        if self.deletion.joined_at >= self.training.rounds:
            raise ConfigError(
                "deletion.joined_at", self.deletion.joined_at, f"below training.rounds, {self.training.rounds}"
            )
        if self.protocol.grid == "rotated" and self.training.unit != "client":
            raise ConfigError("protocol.grid", self.protocol.grid, f"fine, with training.unit {self.training.unit}")
        joined = self.data.clients - (1 if self.deletion.joined_at else 0)
        if self.protocol.minimum_cohort > joined:
            raise ConfigError(
                "protocol.minimum_cohort",
                self.protocol.minimum_cohort,
                f"at most {joined}, the clients of the first round",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and scalars, as in the TOML file."""
        return typing.cast(dict[str, Any], _plain(dataclasses.asdict(self)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
