"""Deletions whose wiping fails or is cut short: nobody trains on the records again, and nobody remembers them."""

from __future__ import annotations

import numpy as np
import pytest
from small_federations import federation, plan_for, silos

from secure_fu.deletion import DeletionRequest
from secure_fu.errors import AlreadyForgotten, HistoryError
from secure_fu.federation import Federation
from secure_fu.federation.local_fleet import LocalFleet
from secure_fu.learning import mlp
from secure_fu.training import history
from secure_fu.unlearning import Retrain

REQUEST = DeletionRequest.whole_client("silo-1")


def test_records_are_gone_whatever_happens_to_files(monkeypatch, tmp_path):
    with federation(rounds=3, directory=tmp_path) as federated:
        federated.train(rounds=2)

        def full(_path):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as broken:
            broken.setattr(history, "destroy_file", full)
            with pytest.raises(HistoryError):
                federated.delete(REQUEST, Retrain(), adaptive=False)
        assert [entry.request for entry in federated.executed] == [REQUEST]
        assert len(federated._silos["silo-1"].records) == 0
        with pytest.raises(AlreadyForgotten):
            federated.delete(REQUEST, Retrain(), adaptive=False)


@pytest.mark.parametrize("cut", [False, True])
def test_what_a_kill_has_left_of_the_wiping_is_wiped_when_the_federation_is_opened(monkeypatch, tmp_path, cut):
    module = mlp(5, (), 3, 0)
    clients = silos()
    plan = plan_for(module, rounds=3)
    place = tmp_path
    with Federation(module, clients, plan=plan, scheme_name="plain", directory=place, resumable=True) as federated:
        federated.train(rounds=2)
        knew = {digest for silo in federated._silos.values() for digest in silo.history.digests}
        with monkeypatch.context() as killed:
            if cut:
                killed.setattr(LocalFleet, "wipe", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
                with pytest.raises(KeyboardInterrupt):
                    federated.delete(REQUEST, Retrain(), adaptive=False)
            else:
                federated.delete(REQUEST, Retrain(), adaptive=False)
    with Federation.open(place, module, clients) as opened:
        assert len(opened._silos["silo-1"].records) == 0
        for name, silo in opened._silos.items():
            assert not set(silo.history.rounds) & {0, 1}, name
            # The public start is of nobody's data; the model after one round knew it.
            start = {opened.checkpoints.load(0).model.digest}
            assert silo.history.digests.isdisjoint(knew - start)
        assert np.isfinite(opened.train().model.vector).all()
