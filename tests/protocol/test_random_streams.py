"""No noise and no sampling stream serves twice: not in a round, not in two, not in two branches."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from machines import Tape, TapedStream

from secure_fu.crypto import InsecureDeterministicRandomness, OsRandomness
from secure_fu.deletion import DeletionRequest
from secure_fu.federation import Federation
from secure_fu.learning import Records, mlp
from secure_fu.planning import make_plan
from secure_fu.privacy import Unit
from secure_fu.protocol import GridKind
from secure_fu.unlearning import Correction, FineTune, Retrain, Rollback, Scratch, Scrub

CLIENTS = 4
ROUNDS = 2
METHODS = (
    Retrain(),
    Retrain(),  # a branch of its own, also the second time
    Rollback(),
    Scrub(length=2),
    Correction(length=2),
    FineTune(length=1),
    Scratch(length=1),
)


def overlaps(streams):
    """Pairs of labels of streams that handed out a common word: two of 2**64 meet once in 10**10 such runs."""
    owners = {}
    found = []
    for number, stream in enumerate(streams):
        for word in stream.handed_out.tolist():
            other = owners.setdefault(word, number)
            if other != number:
                found.append((streams[other].label, stream.label))
    return found


RECORDS = {"scheme_name": "plain", "plan": {"sampling_rate": 0.5}}
# On the rotated grid rounding is random, too, and so are keys and shares, which come from the system alone.
CLIENTS_AND_COMMITTEE = {
    "scheme_name": "kahe",
    "plan": {
        "unit": Unit.CLIENT,
        "sampling_rate": 1.0,
        "local": {"epochs": 1, "batch_size": 5, "learning_rate": 0.1},
        "grid": GridKind.ROTATED,
    },
}


def run(randomness, kind=RECORDS):
    draw = np.random.default_rng(5)
    clients = {
        f"silo-{number}": Records.from_arrays(draw.normal(size=(9, 4)), draw.integers(0, 2, 9))
        for number in range(CLIENTS)
    }
    module = mlp(4, (), 2, 0)
    plan = make_plan(module, clients=4, nominal_units=36, minimum_cohort=3, rounds=ROUNDS, **kind["plan"])
    absent = {(0, "silo-3"), (3, "silo-0")}
    tape = Tape(randomness)
    with Federation(
        module,
        clients,
        plan=plan,
        scheme_name=kind["scheme_name"],
        vanishes=lambda number, name: (number, name) in absent,
        randomness=tape,
    ) as federation:
        federation.train()
        request = DeletionRequest.whole_client("silo-1")
        uploads = sum(traffic.uploads for traffic in federation.training_traffic)
        for method in METHODS:
            uploads += sum(traffic.uploads for traffic in federation.unlearn(request, method, adaptive=False).traffic)
    return tape, uploads


@pytest.mark.parametrize("kind", [RECORDS, CLIENTS_AND_COMMITTEE], ids=["fine", "rotated"])
@pytest.mark.parametrize("make", [OsRandomness, lambda: InsecureDeterministicRandomness(1)], ids=["os", "seeded"])
def test_over_training_and_all_branches_no_word_of_randomness_is_handed_out_twice(make, kind):
    tape, uploads = run(make(), kind)
    labels = Counter(stream.label.partition("/")[0] for stream in tape.streams)
    assert labels == {"noise": uploads, "sampling": uploads, "rounding": uploads}
    noise = [stream for stream in tape.streams if stream.label.startswith("noise/")]
    sampling = [stream for stream in tape.streams if stream.label.startswith("sampling/")]
    assert {stream.label.split("/")[1] for stream in noise} == {f"silo-{number}" for number in range(CLIENTS)}
    assert all(len(stream.handed_out) >= 10 for stream in noise), "ten coordinates"
    rounding = [stream for stream in tape.streams if stream.label.startswith("rounding/")]
    rotated = kind is CLIENTS_AND_COMMITTEE
    assert any(len(stream.handed_out) for stream in sampling) is not rotated, "whole clients are not sampled"
    assert {len(stream.handed_out) > 0 for stream in rounding} == {rotated}, "the fine grid rounds to the nearest"
    assert overlaps(tape.streams) == []
    firsts = [stream.handed_out[:3].tobytes() for stream in noise]
    assert len(set(firsts)) == len(firsts)


def test_two_runs_under_one_seed_repeat_and_two_seeds_or_the_system_do_not():
    def firsts(randomness):
        return [stream.handed_out[:2].tolist() for stream in run(randomness)[0].streams]

    seeded = firsts(InsecureDeterministicRandomness(1))
    assert seeded == firsts(InsecureDeterministicRandomness(1))
    for other in (InsecureDeterministicRandomness(2), OsRandomness()):
        assert all(one != two for one, two in zip(seeded, firsts(other), strict=True) if one)


class StartsAgain:
    """Broken: gives a label the same stream each time."""

    def stream(self, label):
        return InsecureDeterministicRandomness(3).stream(label)


class MixesUp:
    """Broken: noise and sampling of one client come from one key."""

    def __init__(self):
        self._streams = {}

    def stream(self, label):
        name = label.partition("/")[2]
        turn = self._streams.setdefault((label, name), itertools.count())
        return InsecureDeterministicRandomness(next(turn)).stream(name)


@pytest.mark.parametrize("broken", [StartsAgain, MixesUp])
def test_the_check_finds_streams_that_serve_twice(broken):
    tape, _ = run(broken())
    assert overlaps(tape.streams)


def test_the_check_finds_streams_that_are_the_same_but_for_where_they_start():
    whole = InsecureDeterministicRandomness(4).stream("one").words(100)
    streams = [TapedStream("late", None), TapedStream("early", None)]
    streams[0]._parts, streams[1]._parts = [whole[40:]], [whole[:41]]
    assert overlaps(streams) == [("late", "early")]
