"""A server that ends at any message or write, and is opened again over nodes that live on: what is charged and done."""

from __future__ import annotations

from collections import Counter

import pytest
from deployed import Deployment

from secure_fu.deletion import DeletionRequest
from secure_fu.deployment.exchange.messages import Kind
from secure_fu.deployment.server import WindowFiles
from secure_fu.federation.main_line import MainLine
from secure_fu.federation.server_directory import ServerDirectory
from secure_fu.privacy import PrivacyLedger
from secure_fu.protocol import ReleaseLog, Transcript, verify_against_ledger, verify_transcript
from secure_fu.protocol.server import RoundServer
from secure_fu.training import CheckpointStore
from secure_fu.unlearning import Rollback

ROUNDS = 2


class Killed(BaseException):
    """The end of the server's process: nothing of it runs any more."""


@pytest.fixture
def deploy(tmp_path, monkeypatch):
    built = []

    def make(scheme_name="kahe"):
        made = Deployment(tmp_path / "deployment", scheme_name, rounds=ROUNDS, branch_rounds=12)
        built.append(made)
        return made

    # What a process does on its way out, one that is killed does not.
    monkeypatch.setattr(RoundServer, "give_up", lambda *_: None)
    yield make
    for one in built:
        one.close()


def counted(left, kill_before, do):
    """Run something, or be killed before or after it, at the given time."""
    left[0] -= 1
    if kill_before and left[0] == 0:
        raise Killed
    result = do()
    if left[0] == 0:
        raise Killed
    return result


def at_message(made, kind, before, call):
    left = [call]

    def happens(party, asked):
        if asked is kind:
            counted(left, True, lambda: None)

    setattr(made.accidents, "before" if before else "after", happens)
    return lambda: left[0] <= 0


def at_write(monkeypatch, owner, name, before, call):
    real, left = getattr(owner, name), [call]
    monkeypatch.setattr(owner, name, lambda *given, **named: counted(left, before, lambda: real(*given, **named)))

    def done():
        monkeypatch.setattr(owner, name, real)
        return left[0] <= 0

    return done


def whole(made, batch):
    """All that is asked of a server, whatever of it was done before."""
    made.server.train()
    return made.server.delete(batch, Rollback(), adaptive=True)


def story(made, arrange):
    """A server that is killed, one that ends what was begun, and one that looks."""
    batch = made.batch(made.request(DeletionRequest.some_records("silo-1", (0, 3, 7)), "silo-1", 3))
    was_killed = arrange()
    with pytest.raises(Killed):
        whole(made, batch)
    assert was_killed()
    made.accidents.before = made.accidents.after = lambda *_: None
    made.reopen()
    found = made.server.state.rounds
    execution = whole(made, batch)
    check(made, batch, execution)
    state = made.server.state.model.encode()
    made.reopen()
    assert made.server.state.model.encode() == state
    assert made.server.execution(batch.window_id) == execution
    check(made, batch, execution)
    return found


def check(made, batch, execution):
    events = [(one.branch, one.round_number, one.status.value) for one in made.server.ledger.events()]
    assert len({(branch, number) for branch, number, _ in events}) == len(events), "no number is used twice"
    done = Counter(branch for branch, _, status in events if status == "committed")
    assert done == {"original": ROUNDS, "unlearn/rollback": ROUNDS}, "what was released was charged once"
    lost = sum(status == "reserved" for *_, status in events)
    assert lost + 2 * ROUNDS == len(events)
    assert lost <= 1, "the round that was under way stays charged, and no other"
    branches = verify_transcript(made.server_directory / "transcript.jsonl", roster=made.roster, policy=made.policy)
    assert verify_against_ledger(branches, made.server.ledger) == lost
    assert Counter({one.name: len(one.releases) for one in branches}) == done, "what was released is told once"
    assert len(made.server.executed) == 1
    assert execution.missing == ()
    assert execution.rounds == ROUNDS
    assert execution.model_after == made.server.state.model.digest.hex()
    assert [made.nodes[name].client(name).state.gone for name in made.clients] == [(), (0, 3, 7), (), ()]
    # Nobody was asked for more rounds than were charged.
    asked = Counter(party for party, kind in made.accidents.asked if kind is Kind.INVITE)
    assert max(asked.values()) <= len(events)


# When: before the node gets it, or after it has answered and before the server has the answer.
MESSAGES = [
    *(("kahe", Kind.HELLO, call, True) for call in (3, 12)),
    *(("kahe", Kind.BEGIN, call, before) for call, before in ((1, True), (4, False), (6, False))),
    *(
        ("kahe", Kind.INVITE, call, before)
        for call, before in ((1, True), (4, False), (7, False), (10, True), (16, False))
    ),
    *(("kahe", Kind.BALLOT, call, before) for call, before in ((1, True), (4, False), (9, True), (16, False))),
    *(("kahe", Kind.QUORUM, call, before) for call, before in ((1, False), (3, False), (8, True), (12, False))),
    *(("kahe", Kind.WIPE, call, before) for call, before in ((1, True), (1, False), (3, True), (4, False))),
    *(("bfv", Kind.ISSUE_KEY, call, before) for call, before in ((1, False), (3, True), (4, False))),
    *(("bfv", Kind.INVITE, call, before) for call, before in ((2, True), (13, False))),
    *(("bfv", Kind.OPEN, call, before) for call, before in ((1, True), (2, False), (4, False))),
]


@pytest.mark.parametrize(("scheme_name", "kind", "call", "before"), MESSAGES)
def test_a_server_that_ends_at_a_message_goes_on(deploy, scheme_name, kind, call, before):
    made = deploy(scheme_name)
    story(made, lambda: at_message(made, kind, before, call))


WRITES = [
    *((PrivacyLedger, "reserve", call, False) for call in (1, 3)),
    *((ReleaseLog, "append", call, before) for call, before in ((2, True), (2, False), (3, False), (4, True))),
    *((PrivacyLedger, "commit", call, False) for call in (2, 4)),
    *((Transcript, "append", call, before) for call, before in ((2, False), (4, True))),
    *((PrivacyLedger, "branch", 2, before) for before in (True, False)),
    (CheckpointStore, "save", 2, True),
    (CheckpointStore, "destroy_after", 1, True),
    *((MainLine, "adopt", 1, before) for before in (True, False)),
    (WindowFiles, "note_started", 1, False),
    (WindowFiles, "note_order", 1, False),
    *((WindowFiles, "note_wiped", 1, before) for before in (True, False)),
    *((WindowFiles, "note_execution", 1, before) for before in (True, False)),
]


@pytest.mark.parametrize(("owner", "name", "call", "before"), WRITES)
def test_a_server_that_ends_at_a_write_goes_on(deploy, monkeypatch, owner, name, call, before):
    made = deploy()
    found = story(made, lambda: at_write(monkeypatch, owner, name, before, call))
    if (owner, name, call) == (ReleaseLog, "append", 2):
        assert found == (1 if before else 2), "what was logged was released"


def test_a_server_that_forgets_what_it_released_is_caught(deploy, monkeypatch):
    """The checks above can fail: without the log of releases the window's rounds are asked for and charged again."""
    made = deploy()
    reopen = made.reopen

    def forgetful(**arguments):
        server = reopen(**arguments)
        monkeypatch.setattr(ServerDirectory, "resumed", lambda _self, _branch, sums, **_: sums)
        return server

    made.reopen = forgetful
    with pytest.raises(AssertionError, match="charged once"):
        story(made, lambda: at_write(monkeypatch, ReleaseLog, "append", False, 3))


def test_a_server_that_uses_a_number_again_is_caught(deploy, monkeypatch):
    made = deploy()
    monkeypatch.setattr(ServerDirectory, "next_round", lambda self, branch: self.last_released(branch) + 1)
    with pytest.raises(BaseException, match="round") as caught:
        story(made, lambda: at_message(made, Kind.BALLOT, True, 1))
    assert not isinstance(caught.value, Killed)
