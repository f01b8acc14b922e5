"""An archive of models: each is kept once, also for many clients, and is read back as it was or not at all."""

from __future__ import annotations

import pytest
from history_cast import DIMENSION, history, model

from secure_fu.errors import HistoryError
from secure_fu.protocol import ReleasedModel
from secure_fu.training import ModelArchive


def test_clients_of_a_simulation_keep_each_model_once(tmp_path):
    shared = ModelArchive(tmp_path / "models", dimension=DIMENSION)
    clients = [history(tmp_path / f"client-{i}", archive=shared) for i in range(5)]
    assert len(shared) == len(list((tmp_path / "models").iterdir())) == 4
    assert [path.name for path in (tmp_path / "client-0").iterdir() if path.is_dir()] == []
    for of in clients:
        of.check()


def test_a_damaged_missing_or_foreign_model_is_found(tmp_path):
    of = history(tmp_path)
    digest = ReleasedModel.public(model(1)).digest
    path = tmp_path / "models" / f"{digest.hex()}.safetensors"
    whole = path.read_bytes()
    other = (tmp_path / "models" / f"{ReleasedModel.public(model(2)).digest.hex()}.safetensors").read_bytes()
    for broken in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"", other):
        path.write_bytes(broken)
        with pytest.raises(HistoryError, match=digest.hex()):
            of.check()
    path.unlink()
    with pytest.raises(HistoryError, match="missing"):
        of.check()


def test_a_model_that_was_never_there(tmp_path):
    for archive in (ModelArchive(dimension=DIMENSION), ModelArchive(tmp_path, dimension=DIMENSION)):
        with pytest.raises(HistoryError, match="00000000"):
            archive.get(bytes(32))


def test_a_shared_archive_keeps_what_it_is_told(tmp_path):
    for shared in (ModelArchive(dimension=DIMENSION), ModelArchive(tmp_path, dimension=DIMENSION)):
        one, other = history(archive=shared), history(archive=shared)
        one.forget_after(0)
        assert len(shared) == 4
        shared.keep_only(one.digests | other.digests)
        assert len(shared) == 4
        other.forget_after(1)
        shared.keep_only(one.digests | other.digests)
        assert len(shared) == 2
        one.check()
        other.check()
