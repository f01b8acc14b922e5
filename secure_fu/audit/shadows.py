"""Shadow models: trained as the target was, each on a known random half of a pool of records.

The auditor needs records of the target's distribution and its training procedure (Shokri et al. 2017, arXiv
1610.05820). All shadow models of a set train on one pool; their halves come in complementary pairs, so that every
record is in exactly half of the models (as in Carlini et al. 2022, arXiv 2112.03570, section VI-D).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_fu.audit._content import first_copies
from secure_fu.audit._shadow_cache import ShadowCache, digest_of
from secure_fu.errors import ArgumentError, NonFiniteError
from secure_fu.learning import FlatModel, Records, StackedTraining, stacked_logits, train_stacked

__all__ = ["ShadowModels", "balanced_members", "shadow_models", "shadow_models_by", "shadow_seed"]

_DOMAIN: Final = "secure_fu/audit/shadow"
_BLOCKS: Final = 8  # a set is trained, and kept in its cache, in so many parts at least

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class ShadowModels:
    """S models and what each was trained on.

    Attributes:
        model: the architecture.
        records: the pool, n of them.
        members: shape (S, n), true where a record was trained on.
        vectors: float32, shape (S, d).

    Raises:
        ArgumentError: shapes do not fit.
    """

    model: FlatModel
    records: Records
    members: NDArray[np.bool_]
    vectors: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.members.dtype != np.bool_ or self.members.ndim != 2 or self.members.shape[1] != len(self.records):
            raise ArgumentError(
                "members",
                f"{self.members.dtype} of shape {self.members.shape}",
                f"bools of shape (models, {len(self.records)})",
            )
        wanted = (len(self.members), self.model.dimension)
        if self.vectors.dtype != np.float32 or self.vectors.shape != wanted:
            raise ArgumentError(
                "vectors", f"{self.vectors.dtype} of shape {self.vectors.shape}", f"float32 of shape {wanted}"
            )

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        return f"ShadowModels({len(self)} of {self.model!r} on {self.records!r})"

    def logits(self, records: Records | None = None) -> NDArray[np.float32]:
        """Logits of these records, or of the pool, under every model, in evaluation mode: shape (S, n, classes).

        Raises:
            DataError: there are no records.
        """
        return stacked_logits(self.model, self.vectors, self.records if records is None else records)


def balanced_members(
    count: int,
    records: int,
    *,
    seed: int,
    always: NDArray[np.bool_] | None = None,
    copies: NDArray[np.int64] | None = None,
) -> NDArray[np.bool_]:
    """Random halves of a pool, in complementary pairs: each record is in exactly half of the models.

    Of each pair the first has floor(m / 2) of the m records that are divided, every such half equally likely, and the
    second has the others. Copies count as one. Pairs are independent.

    Args:
        count: S, even, >= 2.
        records: n, >= 0.
        seed: >= 0; what is drawn from it meets no other use of the same seed.
        always: shape (n,), true for records that are in every model and are not divided.
        copies: shape (n,), for each record a number that it shares with its copies: these are divided as one.

    Returns:
        bool, shape (S, n). Models 2k and 2k + 1 are a pair.

    Raises:
        ArgumentError: an argument is out of range.
    """
    if count < 2 or count % 2:
        raise ArgumentError("count", count, "an even number of models, at least 2")
    if records < 0:
        raise ArgumentError("records", records, "a number of records >= 0")
    fixed = np.zeros(records, dtype=np.bool_) if always is None else always
    if fixed.dtype != np.bool_ or fixed.shape != (records,):
        raise ArgumentError("always", f"{fixed.dtype} of shape {fixed.shape}", f"bools of shape ({records},)")
    content = np.arange(records) if copies is None else copies
    if content.shape != (records,):
        raise ArgumentError("copies", f"of shape {content.shape}", f"one number a record: shape ({records},)")
    divided = np.unique(content[~fixed])
    members = np.tile(fixed, (count, 1))
    generator = np.random.default_rng(shadow_seed(seed, "members"))
    for pair in range(0, count, 2):
        order = generator.permutation(divided)
        chosen = np.isin(content, order[: len(order) // 2]) & ~fixed
        members[pair] |= chosen
        members[pair + 1] |= ~chosen & ~fixed
    return members


def shadow_seed(seed: int, purpose: str, *, bits: int = 128) -> int:
    """A seed for one purpose of shadow training, in [0, 2**bits): a hash, under a domain that nothing else uses.

    A target that was trained with the same small number as its seed shares no randomness with its shadow models.

    Raises:
        ArgumentError: the seed is negative.
    """
    if seed < 0:
        raise ArgumentError("seed", seed, "an integer >= 0")
    return int.from_bytes(hashlib.sha256(f"{_DOMAIN}/{purpose}/{seed}".encode()).digest(), "big") >> (256 - bits)


def shadow_models(
    model: FlatModel,
    records: Records,
    *,
    count: int,
    training: StackedTraining,
    seed: int,
    start: NDArray[np.floating[Any]] | None = None,
    always: NDArray[np.bool_] | None = None,
    joined: NDArray[np.integer[Any]] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> ShadowModels:
    """Shadow models of a target that was trained by :func:`~secure_fu.learning.train_stacked`'s law, trained at once.

    Args:
        model: the architecture.
        records: the pool, n of them; each is in half of the models.
        count: S, even.
        training: as the target's.
        seed: of halves, batches and noise; see :func:`shadow_seed`.
        start: (d,) for all, or (S, d); the parameters in ``model`` unless given.
        always: shape (n,), true for records that every model is trained on.
        joined: steps before a record takes part, shape (n,).
        cache: a ``.safetensors`` file, see below.
        progress: told (models done, S) now and then.

    Cache:
        What is trained is kept in the file, and beside it in a ``.json`` what it was made from: hashes of
        architecture, start, records and members, the settings and the seed. A call with the same arguments reads it;
        one that was cut short is gone on with, to the same models. The file holds models that remember their members:
        it is readable by its owner only.

    Raises:
        ArgumentError: an argument does not fit.
        NonFiniteError: a model diverged.
        DataError: the cache is damaged, of another version, or was made from something else; names the file.
    """
    members = balanced_members(count, len(records), seed=seed, always=always, copies=first_copies(records))
    first = model.vector() if start is None else start
    made_from = {
        **_made_from(model, records, members, seed),
        "procedure": "secure_fu.learning.train_stacked",
        "training": {name: None if value is None else float(value) for name, value in asdict(training).items()},
        "start": digest_of(first),
        "joined": None if joined is None else digest_of(joined),
    }

    def train(low: int, high: int) -> NDArray[np.float32]:
        return train_stacked(
            model,
            records,
            members[low:high],
            training=training,
            start=first if first.ndim == 1 else first[low:high],
            seeds=[shadow_seed(seed, f"train/{index}") for index in range(low, high)],
            joined=joined,
        )

    block = max(1, count // _BLOCKS)
    vectors = _trained(train, model, count, block, cache, made_from, progress)
    return ShadowModels(model=model, records=records, members=members, vectors=vectors)


def shadow_models_by(
    train: Callable[[Records, int], nn.Module],
    model: FlatModel,
    records: Records,
    *,
    count: int,
    seed: int,
    procedure: str | None = None,
    always: NDArray[np.bool_] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> ShadowModels:
    """Shadow models by any training procedure, one after the other.

    Args:
        train: (members, seed) -> the trained module, of the architecture of ``model``. Its randomness has to come from
            the seed, which is in [0, 2**32), as most libraries take it.
        model: the architecture. Frozen parameters and buffers have to stay what they are in it.
        procedure: a name for ``train`` with all its settings, by which a cache tells it from others. A cache cannot
            see into a function: change the name whenever the training changes. Needed with a cache.
        records, count, seed, always, cache, progress: as :func:`shadow_models`.

    Raises:
        ArgumentError: an argument does not fit, or a trained module is of another architecture.
        NonFiniteError: a trained module is not finite.
        DataError: as :func:`shadow_models`.
    """
    if cache is not None and not procedure:
        raise ArgumentError("procedure", procedure, "a name for the training and its settings, since there is a cache")
    members = balanced_members(count, len(records), seed=seed, always=always, copies=first_copies(records))
    made_from = {**_made_from(model, records, members, seed), "procedure": f"own/{procedure}"}

    def train_block(low: int, high: int) -> NDArray[np.float32]:
        rows = []
        for index in range(low, high):
            module = train(records.subset(members[index]), shadow_seed(seed, f"train/{index}", bits=32))
            rows.append(_vector_of(module, model))
        return np.stack(rows)

    vectors = _trained(train_block, model, count, 1, cache, made_from, progress)
    return ShadowModels(model=model, records=records, members=members, vectors=vectors)


def _vector_of(module: nn.Module, model: FlatModel) -> NDArray[np.float32]:
    """The parameters of a trained module, float32 (d,)."""
    found, own = _tensors(module), _tensors(model.module)
    if {name: tensor.shape for name, tensor in found.items()} != {name: tensor.shape for name, tensor in own.items()}:
        raise ArgumentError("train", f"a function that returns {type(module).__name__}", f"one that returns {model!r}")
    for name, tensor in _constants(model).items():
        if not torch.equal(found[name], tensor):
            raise ArgumentError("train", f"a function that changes {name}", "one that leaves all but trainable weights")
    with np.errstate(over="ignore"):
        vector = model.flatten(found).astype(np.float32)
    if not np.isfinite(vector).all():
        raise NonFiniteError(
            "a shadow model left the finite numbers: training diverged; expected a lower learning rate"
        )
    return vector


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _constants(model: FlatModel) -> dict[str, Tensor]:
    """Frozen parameters and buffers."""
    named = model.module.named_parameters(remove_duplicate=False)
    free = {name for name, parameter in named if parameter.requires_grad}
    return {name: tensor for name, tensor in _tensors(model.module).items() if name not in free}


def _made_from(model: FlatModel, records: Records, members: NDArray[np.bool_], seed: int) -> dict[str, object]:
    parts: list[NDArray[Any] | str] = [repr(model.module), *(f"{layer.name} {layer.shape}" for layer in model.layers)]
    for name, tensor in _constants(model).items():
        parts += [name, tensor.numpy()]
    return {
        "architecture": digest_of(*parts),
        "records": digest_of(records.features.numpy(), records.labels.numpy()),
        "members": digest_of(members),
        "count": len(members),
        "dimension": model.dimension,
        "seed": seed,
    }


def _trained(
    train: Callable[[int, int], NDArray[np.float32]],
    model: FlatModel,
    count: int,
    block: int,
    cache: Path | None,
    made_from: dict[str, object],
    progress: Progress | None,
) -> NDArray[np.float32]:
    """Train what the cache does not have yet, block by block, and keep each."""
    vectors = np.empty((count, model.dimension), dtype=np.float32)
    store = None if cache is None else ShadowCache(cache, made_from=made_from, shape=vectors.shape)
    done = 0 if store is None else store.read(vectors)
    try:
        while done < count:
            high = min(count, done - done % block + block)
            vectors[done:high] = train(done, high)
            done = high
            if store is not None:
                store.keep(vectors[:done])
            if progress is not None:
                progress(done, count)
    finally:
        if store is not None:
            store.keep(vectors[:done], now=True)
    return vectors
