"""Parties that are killed in the middle of a round: what was reserved, or answered, counts as spent ever after."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from machines import make_machines

from secure_fu.privacy import Phase, PrivacyLedger, Subject
from secure_fu.privacy.ledger_records import EventStatus
from secure_fu.protocol import ClientRecord

# Each phase runs in a process of its own, forked after the imports, and kills itself there.
SCRIPT = """
import os, pathlib, signal, sys

import numpy as np
from machines import make_machines

from secure_fu import federation
from secure_fu.learning import Records, mlp
from secure_fu.planning import make_plan

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def rounds(phase, directory):
    machines = make_machines(directory, client_record=directory / "clients.sqlite")
    sums = machines.sums()
    sums.secure_sum(machines.request())
    if phase == "announced":
        machines.key_holder.issue_key = die
    elif phase in ("collecting", "resumed"):
        sums = machines.sums(first_round=1, vanishes=lambda _, name: name == "client-2" and die())
    elif phase == "computing":
        machines.tasks["client-2"].contribution = die
    elif phase == "closed":
        machines.key_holder.open = die
    elif phase == "opened":
        machines.server.release = die
    elif phase == "committed":
        machines.transcript.append = die
    sums.secure_sum(machines.request())

def federated(_, directory):
    draw = np.random.default_rng(1)
    silos = {f"client-{n}": Records.from_arrays(draw.normal(size=(8, 4)), draw.integers(0, 2, 8)) for n in range(4)}
    plan = make_plan(mlp(4, (), 2, 0), clients=4, nominal_units=32, minimum_cohort=3, rounds=3, sampling_rate=0.5)
    vanishes = lambda number, name: (number, name) == (1, "client-2") and die()
    federation.Federation(mlp(4, (), 2, 0), silos, plan=plan, directory=directory, vanishes=vanishes).train()

root = pathlib.Path(sys.argv[1])
for phase in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        (federated if phase == "federation" else rounds)(phase, root / phase)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (phase, status)
"""

PHASES = ("announced", "collecting", "computing", "closed", "opened", "committed", "federation")


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    phases = (*PHASES, "resumed")
    for phase in phases:
        (root / phase).mkdir()
    here = Path(__file__).parent
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(root), *phases],
        check=True,
        timeout=120,
        env={"PYTHONPATH": f"{here}:{here.parents[1]}", "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    return {phase: next((root / phase).glob("ledger*.sqlite")) for phase in phases}


@pytest.mark.parametrize("phase", PHASES)
def test_a_round_that_clients_took_on_before_a_kill_is_in_their_own_record(ledgers, phase):
    # Until all that take part in this process have taken the round on, nothing has left any of them.
    early = phase in ("announced", "collecting", "federation")
    folder = ledgers[phase].parent
    path = folder / "clients" / "original.sqlite" if phase == "federation" else folder / "clients.sqlite"
    record = ClientRecord(path)
    assert [record.rounds(f"client-{number}") for number in range(4)] == [1 if early else 2] * 4
    record.close()


@pytest.mark.parametrize("phase", PHASES)
def test_a_round_that_a_kill_cut_short_counts_as_spent(ledgers, phase):
    with PrivacyLedger.open(ledgers[phase]) as ledger:
        events = list(ledger.events("original"))
        assert len(events) == 2
        assert events[0].status is EventStatus.COMMITTED
        settled = phase == "committed"
        assert events[1].status is (EventStatus.COMMITTED if settled else EventStatus.RESERVED)
        assert len(ledger.pending()) == (0 if settled else 1)
        for client in ("client-0", "client-2"):
            for subject in Subject:
                assert ledger.event_counts("original", client, subject, Phase.TRAINING).total() == 2
                one, two = (
                    ledger.epsilon("original", client, subject, Phase.TRAINING, delta=delta) for delta in (1e-5, 1e-6)
                )
                assert 0.0 < one < two


def test_who_goes_on_with_the_reopened_ledger_takes_the_next_round_number(ledgers, tmp_path):
    machines = make_machines(tmp_path)
    machines.ledger.close()
    with PrivacyLedger.open(ledgers["resumed"]) as ledger:
        machines.server._run = replace(machines.server._run, ledger=ledger)
        sums = machines.sums(first_round=2)
        sums.secure_sum(machines.request())
        assert ledger.event_counts("original", "client-1", Subject.FORGOTTEN, Phase.TRAINING).total() == 3
    machines.close()
