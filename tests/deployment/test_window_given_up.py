"""A window that the budget ends is given up: it holds nothing up, loses no request, and all that it charged counts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from budget_cast import HOUR, SMALL, START, Field
from operations_cast import CLIENTS

import secure_fu.deployment.exchange as exchange_package
from secure_fu.crypto.wire import decode
from secure_fu.deletion import DeletionRequest, State, WindowState, read_deletion_policy, write_deletion_policy
from secure_fu.deletion.certificates import Evidence, check_certificate, read_certificates
from secure_fu.deployment.exchange.exchange import InProcessExchange
from secure_fu.deployment.exchange.messages import Kind, NodeRequest
from secure_fu.deployment.server import WindowFiles
from secure_fu.errors import BudgetExceededError, RecordError, RoundAborted
from secure_fu.privacy import Budget, GaussianSumEvent, Phase, PrivacyLedger, Subject, Unit
from secure_fu.privacy.accounting import ORDERS, rdp
from secure_fu.protocol import read_policy

WHOLE_LIFE = [State.SCHEDULED, State.EXECUTING, State.EXECUTED, State.CERTIFIED]


@pytest.fixture
def field(tmp_path):
    made = Field(tmp_path, SMALL)
    yield made
    made.close()


class Unopened(InProcessExchange):
    """Nobody opens a round once so many were opened: each one costs, and comes to nothing."""

    def __init__(self, nodes, *, after):
        super().__init__(nodes)
        self.left = after

    def ask(self, requests, *, timeout):
        content = dict(requests)
        opens = any(decode(NodeRequest, one).kind is Kind.QUORUM for one in content.values())
        if opens and self.left == 0:
            return
        self.left -= opens
        yield from super().ask(content, timeout=timeout)


def until_given_up(field, at):
    """Rounds come to nothing until the budget is at its end; the windows of the run that gave up, and how many runs."""
    for runs in range(1, 30):
        try:
            report = field.run(at, exchange=Unopened(field.operated.nodes, after=runs == 1))
        except RoundAborted:
            (window,) = field.queue.windows(WindowState.EXECUTING)
            assert window.note
        else:
            return report, runs
    pytest.fail("the window was never given up")


def test_a_window_that_the_budget_ends_is_given_up_and_holds_nothing_up(field):
    first = field.ask(0, at=START - 10)
    report, runs = until_given_up(field, START + 1)
    assert runs == 11, "it is gone on with as long as it may come to its end"
    (window,) = report.windows
    assert window.state is WindowState.GIVEN_UP
    assert "the budget does not hold its last 3 rounds: after them client 'silo-" in window.note
    charged = field.charged()
    assert len(charged) == 4 + 1 + 10, "two of seventeen are left, and were not spent for nothing"
    *_, scheduled, executing, again = field.queue.history(first)
    assert [scheduled.state, executing.state, again.state] == [State.SCHEDULED, State.EXECUTING, State.ACCEPTED]
    assert "was given up: the budget" in again.why
    # Nothing is tried again at the same time, and a later one is judged by itself: nothing is left for it.
    assert field.run(START + 2).windows == ()
    second = field.ask(1, at=START + 10)
    report = field.run(START + HOUR + 1)
    assert (report.windows, report.unserved) == ((), 2)
    assert "the budget does not hold its 4 rounds" in report.skipped
    assert field.charged() == charged
    assert [field.queue.history(one)[-1].state for one in (first, second)] == [State.ACCEPTED] * 2
    assert field.queue.windows(WindowState.EXECUTING) == []


def test_both_commands_say_so(field, monkeypatch, command):
    field.ask(0, at=START - 10)
    server = field.operated.server
    (server / "nodes.toml").write_text('sockets = ["nowhere"]')
    first = [True]

    def exchange(_):
        made = Unopened(field.operated.nodes, after=first[0])
        first[0] = False
        return made

    monkeypatch.setattr(exchange_package, "SocketExchange", exchange)
    monkeypatch.setattr("time.time", lambda: START + 1)
    monkeypatch.setattr("time.sleep", lambda _: None)

    for _ in range(30):
        code, out, err = command("unlearn", server)
        assert (code, "Traceback" in err) == (1, False)
        if out:
            break
    for said in (out, command("pending", server)[1]):
        assert "GIVEN UP: window" in said
        assert "the budget does not hold its last 3 rounds" in said
        assert "its requests wait again" in said
        assert "found another whose clients know" in said
    code, out, _ = command("pending", server, "--json")
    (window,) = json.loads(out)["windows"]
    assert (window["state"], json.loads(out)["states"]) == ("given up", {"accepted": 1})


def given_up(field, monkeypatch, at, *, rounds=2):
    """A window that is given up after so many rounds, with budget left; the ledger refuses the next one, once."""
    real, left = PrivacyLedger.reserve, [rounds]

    def reserve(self, branch, **arguments):
        if left[0] == 0:
            raise BudgetExceededError("it is over")
        left[0] -= 1
        return real(self, branch, **arguments)

    with monkeypatch.context() as patched:
        patched.setattr(PrivacyLedger, "reserve", reserve)
        (window,) = field.run(at).windows
    assert window.state is WindowState.GIVEN_UP
    return window


def gone(field):
    return {name: field.operated.nodes[name].client(name).state.gone for name in CLIENTS}


def test_a_later_window_that_fits_executes_them(tmp_path):
    """The terms have another method, of one round, that the remaining budget holds."""
    field = Field(tmp_path, SMALL.replace("[deletion]", "[methods.finetune]\nlength = 1\n\n[deletion]"))
    try:
        wanted = field.ask(3, at=START - 10)
        until_given_up(field, START + 1)
        cheaper = replace(field.policy, method="finetune", settings={"length": 1})
        field.operated.stop()
        for name in ("server", *CLIENTS):
            write_deletion_policy(cheaper, field.operated.root / name / "deletion.toml")
        field.operated.start()
        (window,) = field.run(START + HOUR + 1).windows
        assert (window.state, window.requests) == (WindowState.CERTIFIED, 1)
        assert [change.state for change in field.queue.history(wanted)][-4:] == WHOLE_LIFE
        assert gone(field)["silo-1"] == (3,)
        assert len(field.charged()) == 4 + 1 + 10 + 1
    finally:
        field.close()


@pytest.mark.parametrize("again", [False, True], ids=["at once", "after restarts"])
def test_the_same_requests_are_executed_in_a_later_window(field, monkeypatch, again):
    """By the clients that know the first order, once; its rounds are charged, certified and no obstacle."""
    wanted = field.ask(3, at=START - 10)
    field.operated.nodes["silo-2"].client("silo-2").request_privately(DeletionRequest.some_records("silo-2", (5,)))
    before = given_up(field, monkeypatch, START + 1)
    after_first = field.charged()
    assert len(after_first) == 4 + 2
    assert not any(gone(field).values()), "nothing was destroyed for a window that was not executed"
    state = field.operated.nodes["silo-1"].client("silo-1").state
    assert (state.order.window, state.order.marks) == (before.window_id, (3,))
    if again:
        field.operated.stop()
        field.operated.start()
    (window,) = field.run(START + HOUR + 1).windows
    assert (window.state, window.requests) == (WindowState.CERTIFIED, 1)
    assert window.window_id != before.window_id
    assert [change.state for change in field.queue.history(wanted)][-4:] == WHOLE_LIFE
    assert gone(field) == {"silo-0": (), "silo-1": (3,), "silo-2": (5,), "silo-3": ()}
    state = field.operated.nodes["silo-1"].client("silo-1").state
    assert [one.window for one in state.parked] == [before.window_id]
    assert field.operated.nodes["silo-2"].client("silo-2").state.private == ()
    assert (state.settled[-1].window, state.settled[-1].rounds) == (window.window_id, 4)
    assert field.charged()[: len(after_first)] == after_first
    assert len(field.charged()) == 4 + 2 + 4
    # Whoever checks the certificate sees the rounds of both.
    server = field.operated.server
    (certificate,) = read_certificates(server / "deletion" / "certificates")
    with PrivacyLedger.open(server / "ledger.sqlite", read_only=True) as ledger:
        evidence = Evidence(
            policy=read_policy(server / "policy.toml"),
            transcript=server / "transcript.jsonl",
            ledger=ledger,
            deletion_policy=read_deletion_policy(server / "deletion.toml"),
        )
        found = check_certificate(certificate, roster=field.operated.roster, evidence=evidence)
    assert any(said.startswith("2 rounds ran in windows that were given up") for said in found.attention)
    kinds = certificate.body["accounting"]["rounds"]
    assert sum(max(one["counts"]["retained"]) for one in kinds if one["part"] == "beside") == 2
    # Training goes on without the record, under a budget that knows all of it.
    with field.operated.opened() as opened:
        assert [len(opened.executed), opened.ledger.rounds("unlearn/retrain")] == [1, (4, 5)]


def test_what_a_given_up_window_charged_counts_in_each_later_branch(field, monkeypatch):
    """The ledger itself refuses: without that, a later window would be begun beside it as if it had not been."""
    field.ask(3, at=START - 10)
    given_up(field, monkeypatch, START + 1, rounds=3)
    spent = len(field.charged())
    (window,) = field.run(START + HOUR + 1).windows
    assert window.state is WindowState.CERTIFIED
    with field.operated.opened() as server:
        branch = server.executed[-1].branch
        events = list(server.ledger.events(branch))
        last = events[-1]
        left = 17 - spent - len(events)
        named = {"purpose": last.purpose, "phase": last.phase, "charges": last.charges, "cohort": last.cohort}
        for number in range(left):
            server.ledger.reserve(branch, round_number=last.round_number + 1 + number, **named)
        with pytest.raises(BudgetExceededError, match="all branches"):
            server.ledger.reserve(branch, round_number=last.round_number + 1 + left, **named)


@pytest.mark.parametrize("again", [False, True], ids=["at once", "opened again"])
def test_a_branch_that_was_given_up_counts_at_its_dearer_charge(tmp_path, again):
    """By hand: rounds that cost nothing but forgotten units, in one branch, and rounds of a branch beside it."""
    plain = GaussianSumEvent(noise_multiplier=2.0, sampling_rate=1.0, grid_ratio=2.0e4, dimension=100, shares=3)
    budget = Budget(epsilon=8.0, delta=1e-5, order=4.0, deletion_reserve=0.0, unit=Unit.RECORD)
    once, limit = rdp(plain)[ORDERS.index(4.0)], budget.limit(Phase.UNLEARNING)
    holds = int(limit // once)
    assert holds > 6

    def rounds(ledger, branch, subject):
        charges = {Subject.FORGOTTEN: None, Subject.RETAINED: None, subject: plain}
        for number in range(100):
            try:
                ledger.reserve(
                    branch,
                    round_number=number,
                    purpose="unlearn/x",
                    phase=Phase.UNLEARNING,
                    charges=charges,
                    cohort=["silo-0"],
                )
            except BudgetExceededError:
                return number
            if branch == "given up" and number == 3:
                return 4
        return -1

    for trials, fits in ((True, holds), (False, holds - 4)):
        path = tmp_path / f"{trials}.sqlite"
        PrivacyLedger.create(path, budget=budget).close()
        ledger = PrivacyLedger.open(path, trials=trials)
        ledger.branch("original")
        ledger.branch("given up", parent="original")
        ledger.branch("later", parent="original")
        assert rounds(ledger, "given up", Subject.FORGOTTEN) == 4
        if again:
            ledger.close()
            ledger = PrivacyLedger.open(path, trials=trials)
        assert rounds(ledger, "later", Subject.RETAINED) == fits
        ledger.close()


def test_a_given_up_window_is_never_gone_on_with_whatever_is_killed(field, monkeypatch):
    """The server writes it down first; a queue that does not know it, after a kill or from a copy, is told."""
    field.ask(3, at=START - 10)
    given_up(field, monkeypatch, START + 1)
    charged = field.charged()
    (before,) = field.queue.windows()
    with field.queue._file.together():  # the queue as it was before it was told
        field.queue._file.write("UPDATE windows SET state = 'executing', note = ''")
        field.queue._file.write("UPDATE requests SET state = 'executing', window = ?", (before.window_id,))
    (window,) = field.run(START + 2).windows
    assert (window.window_id, window.state, window.note) == (before.window_id, WindowState.GIVEN_UP, before.note)
    assert field.charged() == charged
    assert field.states() == [State.ACCEPTED]


def test_a_window_that_was_executed_cannot_be_given_up(field):
    field.ask(3, at=START - 10)
    (window,) = field.run(START + 1).windows
    with field.operated.opened() as server, pytest.raises(RecordError, match="was executed"):
        server.give_up(window.window_id, "for no reason")
    assert WindowFiles(field.operated.server).given_up(window.window_id) == ""


def test_people_give_a_window_up_by_a_command_that_asks_no_node(field, monkeypatch, command):
    first = field.ask(0, at=START - 10)
    server = field.operated.server
    monkeypatch.setattr("time.time", lambda: START + 2)

    code, _, err = command("unlearn", server, "--give-up", "they refuse")
    assert code == 2
    assert "a window that was begun and not executed; there is none" in " ".join(err.split())
    with pytest.raises(RoundAborted):
        field.run(START + 1, exchange=Unopened(field.operated.nodes, after=1))
    charged = field.charged()
    for wrong in (["--give-up", " "], ["--give-up", "they\nrefuse"], ["--give-up", "they refuse", "--now"]):
        code, _, err = command("unlearn", server, *wrong)
        assert (code, "--give-up" in err, "Traceback" in err) == (2, True, False)
    assert [window.state for window in field.queue.windows()] == [WindowState.EXECUTING]
    code, out, _ = command("unlearn", server, "--give-up", "they refuse")
    assert code == 0
    assert "GIVEN UP: window" in out
    assert "they refuse. The rounds that it had stay charged" in out
    (window,) = field.queue.windows()
    assert (window.state, window.note) == (WindowState.GIVEN_UP, "they refuse")
    assert WindowFiles(server).given_up(window.window_id) == "they refuse"
    assert field.charged() == charged
    (later,) = field.run(START + HOUR + 1).windows
    assert (later.state, later.requests) == (WindowState.CERTIFIED, 1)
    assert field.queue.history(first)[-1].state is State.CERTIFIED
