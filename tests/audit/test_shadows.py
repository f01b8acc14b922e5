"""Shadow models: halves, seeds, the cache on disk, procedures of a user's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy import stats
from torch import nn

from secure_fu.audit import _shadow_cache, shadows
from secure_fu.audit._shadow_cache import digest_of
from secure_fu.audit.shadows import ShadowModels, balanced_members, shadow_models, shadow_models_by, shadow_seed
from secure_fu.errors import ArgumentError, DataError, NonFiniteError
from secure_fu.learning import FlatModel, Records, StackedTraining, accuracy, digits, logits, mlp, train_stacked

POOL = digits(seed=0).train.subset(slice(0, 80))
MODEL = FlatModel(mlp(64, [12], 10, seed=1))
TRAINING = StackedTraining(steps=10, sampling_rate=0.25, learning_rate=0.2, momentum=0.9, divisor=10.0)


def trained(cache: Path | None = None, **changes: object) -> ShadowModels:
    how: dict[str, object] = {"count": 16, "training": TRAINING, "seed": 3, **changes}
    return shadow_models(MODEL, POOL, cache=cache, **how)


def own_training(members: Records, seed: int) -> nn.Module:
    """Full-batch steps from a start of its own."""
    module = mlp(64, [12], 10, seed=seed)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.5, momentum=0.9)
    for _ in range(30):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(members.features), members.labels).backward()
        optimiser.step()
    return module


def trained_by(cache: Path | None = None, **changes: object) -> ShadowModels:
    how: dict[str, object] = {"train": own_training, "count": 4, "seed": 3, "procedure": "30 steps", **changes}
    return shadow_models_by(model=MODEL, records=POOL, cache=cache, **how)


class Interrupted(Exception):
    pass


def stop_at(limit: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= limit:
            raise Interrupted

    return progress


def test_every_record_is_in_exactly_half_of_the_models_and_pairs_are_complements() -> None:
    for records in (80, 81, 1, 0):
        members = balanced_members(10, records, seed=5)
        assert (members.sum(axis=0) == 5).all()
        assert (members[0::2] == ~members[1::2]).all()
        assert (members[0::2].sum(axis=1) == records // 2).all()
    assert (balanced_members(10, 80, seed=5) == balanced_members(10, 80, seed=5)).all()
    assert (balanced_members(10, 80, seed=5) != balanced_members(10, 80, seed=6)).any()


def test_halves_are_uniform_and_pairs_independent() -> None:
    members = balanced_members(2 * 20_000, 6, seed=0)[0::2]
    numbers = members @ (1 << np.arange(6))
    halves, counts = np.unique(numbers, return_counts=True)
    assert len(halves) == 20
    assert stats.chisquare(counts).pvalue > 1e-4
    rank = np.searchsorted(halves, numbers)

    def independent(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
        return float(stats.chisquare(np.bincount(20 * first + second, minlength=400)).pvalue)

    assert independent(rank[:-1], rank[1:]) > 1e-4
    assert independent(rank[:-1], np.where(np.arange(len(rank) - 1) % 20, rank[1:], rank[:-1])) < 1e-4


def test_fixed_records_are_in_every_model() -> None:
    always = np.arange(80) % 3 == 0
    members = balanced_members(8, 80, seed=5, always=always)
    assert members[:, always].all()
    assert (members[:, ~always].sum(axis=0) == 4).all()
    assert (members[0::2, ~always] == ~members[1::2, ~always]).all()


def test_seeds_meet_no_target_and_no_other_purpose() -> None:
    found = {
        shadow_seed(seed, purpose) for seed in range(50) for purpose in ("members", "train/0", "train/1", "train/10")
    }
    assert len(found) == 200
    assert min(found) > 2**64
    assert 0 <= shadow_seed(0, "train/0", bits=32) < 2**32
    # A target of the same small seed and the same members draws other batches.
    models = trained(training=replace(TRAINING, noise=0.1))
    how = {"training": replace(TRAINING, noise=0.1), "start": MODEL.vector()}
    assert (train_stacked(MODEL, POOL, models.members[:1], seeds=[3], **how) != models.vectors[0]).mean() > 0.9
    own = train_stacked(MODEL, POOL, models.members[:2], seeds=[shadow_seed(3, f"train/{k}") for k in (0, 1)], **how)
    assert (own == models.vectors[:2]).all()


def test_shadow_models_learn_their_own_halves() -> None:
    models = trained(training=replace(TRAINING, steps=80))
    right = models.logits().argmax(axis=2) == POOL.labels.numpy()
    assert right[models.members].mean() > right[~models.members].mean() + 0.1
    other = digits(seed=0).test.subset(slice(0, 5))
    assert models.logits(other).shape == (16, 5, 10)
    assert np.abs(models.logits(other)[2] - logits(MODEL, models.vectors[2].astype(np.float64), other)).max() < 1e-4
    assert len(models) == 16
    assert "80" in repr(models)


def test_starts_and_joining_reach_the_training() -> None:
    start = np.random.default_rng(0).standard_normal((16, MODEL.dimension))
    still = replace(TRAINING, steps=0)
    assert (trained(training=still, start=start).vectors == start.astype(np.float32)).all()
    nobody = trained(joined=np.full(80, 10)).vectors
    assert (nobody == MODEL.vector().astype(np.float32)).all()


def test_the_cache_gives_back_what_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "own.safetensors"
    first = trained(path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["own.json", "own.safetensors"]
    assert path.stat().st_mode & 0o077 == 0
    note = json.loads(path.with_suffix(".json").read_text())
    assert note["made_from"]["training"]["learning_rate"] == 0.2
    monkeypatch.setattr(shadows, "train_stacked", None)
    again = trained(path)
    assert (again.vectors == first.vectors).all()
    assert (again.members == first.members).all()


def test_an_interrupted_training_is_gone_on_with_to_the_same_models(tmp_path: Path) -> None:
    path, told = tmp_path / "own.safetensors", []
    with pytest.raises(Interrupted):
        trained(path, progress=stop_at(6))
    assert len(load_file(path)["vectors"]) == 6
    again = trained(path, progress=lambda *done: told.append(done))
    assert told == [(done, 16) for done in range(8, 17, 2)]
    assert (again.vectors == trained().vectors).all()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 4}, "seed"),
        ({"count": 18}, "count"),
        ({"training": replace(TRAINING, learning_rate=0.3)}, "training"),
        ({"training": replace(TRAINING, clip_norm=1.0)}, "training"),
        ({"start": MODEL.vector() + 1.0}, "start"),
        ({"joined": np.zeros(80, dtype=np.int64)}, "joined"),
        ({"always": np.arange(80) == 0}, "members"),
    ],
    ids=str,
)
def test_a_cache_of_other_arguments_is_refused_by_name(tmp_path: Path, change: dict[str, object], named: str) -> None:
    path = tmp_path / "own.safetensors"
    trained(path)
    kept = path.read_bytes()
    with pytest.raises(DataError, match=rf"own\.safetensors was made from something else: .*{named}"):
        trained(path, **change)
    assert path.read_bytes() == kept


def test_a_cache_of_other_records_or_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    trained(path)
    how = {"count": 16, "training": TRAINING, "seed": 3, "cache": path}
    features = POOL.features.clone()
    features[3, 0, 0, 0] += 1.0
    with pytest.raises(DataError, match="records differ"):
        shadow_models(MODEL, Records(features, POOL.labels), **how)
    tanh = nn.Sequential(*(nn.Tanh() if isinstance(layer, nn.ReLU) else layer for layer in MODEL.module))
    with pytest.raises(DataError, match="architecture differ"):
        shadow_models(FlatModel(tanh), POOL, **how)


def changed(path: Path, how: str) -> None:
    note = path.with_suffix(".json")
    vectors = load_file(path)["vectors"]
    with _shadow_cache.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    match how:
        case "cut":
            path.write_bytes(path.read_bytes()[:-7])
        case "a bit":
            content = bytearray(path.read_bytes())
            content[-5] ^= 4
            path.write_bytes(bytes(content))
        case "no safetensors":
            path.write_bytes(b"PK\x03\x04 something else")
        case "a folder":
            path.unlink()
            path.mkdir()
        case "other tensors":
            save_file({"weights": vectors}, path, metadata=metadata)
        case "another shape":
            save_file({"vectors": vectors[:, :-1].copy()}, path, metadata=metadata)
        case "another type":
            save_file({"vectors": vectors.astype(np.float64)}, path, metadata=metadata)
        case "of another note":
            save_file({"vectors": vectors}, path, metadata={**metadata, "made_from": "0" * 64})
        case "no metadata":
            save_file({"vectors": vectors}, path)
        case "too many":
            more = np.concatenate([vectors, vectors])
            save_file({"vectors": more}, path, metadata={**metadata, "sha256": digest_of(more)})
        case "note: none":
            note.unlink()
        case "note: cut":
            note.write_text(note.read_text()[:-20])
        case "note: binary":
            note.write_bytes(b"\xff\xfe\x00")
        case "note: a list":
            note.write_text("[1]")
        case "note: older":
            note.write_text(note.read_text().replace("shadow-models/1", "shadow-models/0"))
        case "note: of another tool":
            note.write_text('{"schema": "else/1"}')
        case "note: without origin":
            note.write_text(json.dumps({"schema": _shadow_cache.SCHEMA}))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("cut", r"own\.safetensors is truncated or damaged"),
        ("a bit", r"own\.safetensors is damaged"),
        ("no safetensors", r"own\.safetensors is truncated or damaged"),
        ("a folder", r"own\.safetensors is truncated or damaged"),
        ("other tensors", r"own\.safetensors does not hold shadow models"),
        ("another shape", r"own\.safetensors does not hold shadow models"),
        ("another type", r"own\.safetensors does not hold shadow models"),
        ("of another note", r"own\.safetensors does not belong to own\.json"),
        ("no metadata", r"own\.safetensors does not belong to own\.json"),
        ("too many", r"own\.safetensors is damaged"),
        ("note: none", r"own\.json is missing"),
        ("note: cut", r"own\.json is damaged"),
        ("note: binary", r"own\.json is damaged"),
        ("note: a list", r"own\.json is no note"),
        ("note: older", r"own\.json is of version 'secure-fu/shadow-models/0'"),
        ("note: of another tool", r"own\.json is no note"),
        ("note: without origin", r"own\.json is damaged"),
    ],
)
def test_a_cache_that_is_no_good_is_named_and_left_alone(tmp_path: Path, how: str, words: str) -> None:
    path = tmp_path / "own.safetensors"
    trained(path)
    changed(path, how)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    with pytest.raises(DataError, match=words):
        trained(path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before


def test_a_note_without_models_hinders_nobody(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    with pytest.raises(NonFiniteError):
        trained(path, training=replace(TRAINING, learning_rate=1e14))
    assert [file.name for file in tmp_path.iterdir()] == ["own.json"]
    trained(path)
    assert json.loads(path.with_suffix(".json").read_text())["made_from"]["training"]["learning_rate"] == 0.2
    path.with_suffix(".json").write_text("{}")
    path.unlink()
    with pytest.raises(DataError, match="no note"):
        trained(path)


def test_any_procedure_can_train(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def watched(members: Records, seed: int) -> nn.Module:
        seen.append((len(members), seed))
        return own_training(members, seed)

    path = tmp_path / "own.safetensors"
    with pytest.raises(Interrupted):
        trained_by(path, train=watched, progress=stop_at(3))
    models = trained_by(path, train=watched)
    assert [count for count, _ in seen] == [40] * 4
    assert len({seed for _, seed in seen}) == 4
    assert all(0 <= seed < 2**32 for _, seed in seen)
    again = trained_by()
    assert (models.vectors == again.vectors).all()
    expected = own_training(POOL.subset(models.members[1]), seen[1][1])
    assert (models.vectors[1] == FlatModel(expected).vector()).all()
    assert accuracy(MODEL, models.vectors[1].astype(np.float64), POOL.subset(models.members[1])) > 0.9
    with pytest.raises(DataError, match="procedure differ"):
        trained_by(path, procedure="31 steps")


def test_a_procedure_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    def diverged(members: Records, seed: int) -> nn.Module:
        module = mlp(64, [12], 10, seed=seed)
        with torch.no_grad():
            module[1].weight[0, 0] = torch.inf
        return module

    with pytest.raises(ArgumentError, match="train is"):
        trained_by(train=lambda members, seed: mlp(64, [13], 10, seed=seed))
    with pytest.raises(NonFiniteError, match="shadow model"):
        trained_by(train=diverged)
    with pytest.raises(ArgumentError, match="procedure"):
        trained_by(tmp_path / "own.safetensors", procedure=None)
    # What it learned outside the trainable parameters would be lost.
    scaled = nn.Sequential(Scale(1.0), mlp(64, [12], 10, seed=0))
    with pytest.raises(ArgumentError, match=r"0\.scale"):
        shadow_models_by(
            lambda members, seed: nn.Sequential(Scale(2.0), mlp(64, [12], 10, seed=seed)),
            FlatModel(scaled),
            POOL,
            count=2,
            seed=0,
        )


class Scale(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x


def test_refusals(tmp_path: Path) -> None:
    members: NDArray[np.bool_] = np.ones((2, 80), dtype=np.bool_)
    vectors = np.zeros((2, MODEL.dimension), dtype=np.float32)
    good = {"model": MODEL, "records": POOL, "members": members, "vectors": vectors}
    ShadowModels(**good)
    wrong: list[tuple[str, Callable[[], object]]] = [
        ("count", lambda: balanced_members(3, 80, seed=0)),
        ("count", lambda: balanced_members(0, 80, seed=0)),
        ("records", lambda: balanced_members(2, -1, seed=0)),
        ("seed", lambda: balanced_members(2, 80, seed=-1)),
        ("always", lambda: balanced_members(2, 80, seed=0, always=np.ones(79, dtype=np.bool_))),
        ("cache", lambda: trained(tmp_path / "own.pt")),
        ("members", lambda: ShadowModels(**{**good, "members": members[:, :-1]})),
        ("vectors", lambda: ShadowModels(**{**good, "vectors": vectors[:1]})),
        ("vectors", lambda: ShadowModels(**{**good, "vectors": vectors.astype(float)})),
    ]
    for words, call in wrong:
        with pytest.raises(ArgumentError, match=words):
            call()
    (tmp_path / "a file").write_text("")
    with pytest.raises(DataError, match="cannot be read"):
        trained(tmp_path / "a file" / "own.safetensors")
    (tmp_path / "note.json").mkdir()
    with pytest.raises(DataError, match=r"note\.json cannot be read"):
        trained(tmp_path / "note.safetensors")


def test_copies_are_divided_as_one() -> None:
    copies = np.array([0, 1, 0, 3, 1, 0, 6, 7])
    members = balanced_members(20, 8, seed=5, copies=copies)
    assert (members[:, copies] == members).all()
    assert (members[0::2] ^ members[1::2]).all()
    alone = balanced_members(20, 8, seed=5)
    assert (alone == balanced_members(20, 8, seed=5, copies=np.arange(8))).all()
    assert not (alone[:, copies] == alone).all()
