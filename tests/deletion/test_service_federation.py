"""The deletion service over a real federation in this process: killed wherever, each window is executed once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from queue_cast import DAY, HOUR, NOW, Killed, policy
from queue_cast import execution as any_execution
from small_federations import plan_for, silos

from secure_fu.crypto.identity_file import read_identities
from secure_fu.deletion import (
    DeletionBatch,
    DeletionRequest,
    DeletionService,
    RequestQueue,
    State,
    WindowState,
    open_request,
    sign_request,
)
from secure_fu.federation import Federation
from secure_fu.learning import mlp
from secure_fu.unlearning import Retrain

LATER = NOW + HOUR
WANTED = {
    "silo-1": DeletionRequest.some_records("silo-1", (0, 3, 7)),
    "silo-2": DeletionRequest.whole_class(1, client="silo-2"),
}


def module():
    return mlp(5, (), 3, 0)


class FederationExecutor:
    """Executes batches on a federation in a directory, each once; opens it anew for each batch.

    It writes a window down with how many deletions were executed before it, and so knows after any end of the process
    whether this one was.
    """

    def __init__(self, directory: Path, identities, *, dies: str = "") -> None:
        self.directory, self.identities, self.dies = directory, identities, dies
        self.begun = directory / "windows.json"
        self.deletions = 0

    def may_die(self, moment):
        if self.dies == moment:
            raise Killed

    def check_window(self, batch):
        pass

    def execute(self, batch):
        window = batch.window_id.hex()
        begun = json.loads(self.begun.read_text()) if self.begun.exists() else {}
        with Federation.open(self.directory, module(), silos()) as federation:
            if window not in begun:
                begun[window] = len(federation.executed)
                self.begun.write_text(json.dumps(begun))
            self.may_die("begun")
            if len(federation.executed) == begun[window]:
                wanted = DeletionBatch(tuple(open_request(one, self.identities[one.client]) for one in batch.requests))
                self.deletions += 1
                federation.delete(wanted, Retrain(), adaptive=True, on_round=lambda _: self.may_die("in a round"))
            self.may_die("deleted")
            entry = federation.executed[begun[window]]
            return any_execution(
                batch.window_id,
                branch=entry.branch,
                model_after=federation.state.model.digest.hex(),
                ledger_events=len(list(federation.ledger.events())),
            )


@pytest.fixture
def trained(tmp_path):
    """A federation's directory after training, and the identities of its parties."""
    directory = tmp_path / "federation"
    directory.mkdir()
    plan = plan_for(module(), rounds=2, branch_rounds=6, checkpoint_every=1)
    with Federation(
        module(), silos(), plan=plan, scheme_name="plain", directory=directory, resumable=True
    ) as federation:
        federation.train()
        roster = federation.roster
    return directory, roster, read_identities(directory / "identities.bin")


@pytest.mark.parametrize("moment", ["", "begun", "in a round", "deleted"])
def test_each_window_is_executed_once_wherever_it_is_killed(trained, tmp_path, moment):
    directory, roster, identities = trained
    chosen = policy(execution_seconds=0)
    requests = [
        sign_request(identities[name], wanted, roster=roster, units=10, submitted=NOW - DAY, deadline=NOW + 9 * DAY)
        for name, wanted in WANTED.items()
    ]
    executor = FederationExecutor(directory, identities, dies=moment)
    with RequestQueue.create(tmp_path / "queue.sqlite") as queue:
        queue.submit_all(requests, roster=roster, policy=chosen, now=NOW - HOUR)

        def live():
            with DeletionService(queue, executor, chosen, roster=roster, clock=lambda: LATER) as service:
                return service.run_due()

        if moment:
            for _ in range(2):
                with pytest.raises(Killed):
                    live()
            assert {entry.state for entry in queue.entries()} == {State.EXECUTING}
        executor.dies = ""
        (window,) = live().windows
        assert window.state is WindowState.EXECUTED
        assert {entry.state for entry in queue.entries()} == {State.EXECUTED}
        done = queue.execution(window)
        assert live().windows == ()
    assert executor.deletions == {"": 1, "begun": 1, "in a round": 3, "deleted": 1}[moment]
    with Federation.open(directory, module(), silos()) as federation:
        (entry,) = federation.executed
        assert entry.branch == done.branch
        assert federation.state.model.digest.hex() == done.model_after
        gone = {name: np.flatnonzero(mask).tolist() for name, mask in federation._line.gone.items() if mask.any()}
        expected = {
            name: np.flatnonzero(wanted.identify(name, silos()[name])).tolist() for name, wanted in WANTED.items()
        }
        assert gone == expected
        # Two rounds of training and two of the deletion: a kill charges nothing again.
        assert done.ledger_events == len(list(federation.ledger.events())) == 4
