"""A window is priced before it is opened: what the budget does not hold is not begun, and cover blocks no deletion."""

from __future__ import annotations

import json

import pytest
from budget_cast import HOUR, SMALL, START, Field

import secure_fu.deployment.exchange as exchange_package
from secure_fu.deletion import State, WindowState
from secure_fu.deployment.exchange.exchange import InProcessExchange
from secure_fu.errors import LedgerError


@pytest.fixture
def field(tmp_path):
    made = Field(tmp_path, SMALL)
    yield made
    made.close()


def test_cover_leaves_a_deletion_its_budget_and_a_window_that_does_not_fit_is_not_begun(field):
    (cover,) = field.run(START + 1).windows
    assert (cover.requests, cover.state) == (0, WindowState.CERTIFIED)
    charged = field.charged()
    for _ in range(2):
        report = field.run(START + HOUR + 1)
        assert (report.windows, report.unserved) == ((), 0)
    assert field.charged() == charged, "a second one for nobody would take what a deletion needs"
    assert "nobody asked" in field.queue.newest_skip().why
    for number in (1, 2):
        field.ask(number, at=START + number * HOUR + 2)
        (window,) = field.run(START + (number + 1) * HOUR + 1).windows
        assert (window.requests, window.state) == (1, WindowState.CERTIFIED)
    charged = field.charged()
    assert len(charged) == 4 * 4
    third = field.ask(3, at=START + 3 * HOUR + 2)
    for at in (4 * HOUR + 1, 4 * HOUR + 60, 5 * HOUR + 1):
        report = field.run(START + at)
        assert (report.windows, report.unserved) == ((), 1)
        assert "the budget does not hold its 4 rounds: after them client 'silo-" in report.skipped
        assert "the budget is 8 at delta 1e-05" in report.skipped
        assert field.charged() == charged
        assert field.queue.history(third)[-1].state is State.ACCEPTED
    assert not field.queue.windows(WindowState.EXECUTING), "nothing holds up what comes later"


def test_the_command_says_so_and_pending_shows_it(field, monkeypatch, command):
    for number in range(3):
        field.ask(number, at=START + number * HOUR - 10)
        (window,) = field.run(START + number * HOUR + 1).windows
        assert window.requests == 1
    field.ask(3, at=START + 2 * HOUR + 10)
    now = START + 3 * HOUR + 1

    server = field.operated.server
    (server / "nodes.toml").write_text('sockets = ["nowhere"]')
    monkeypatch.setattr(exchange_package, "SocketExchange", lambda _: InProcessExchange(field.operated.nodes))
    monkeypatch.setattr("time.time", lambda: now)
    code, out, err = command("unlearn", server)
    assert (code, "Traceback" in err) == (1, False)
    assert "the budget does not hold its 4 rounds" in out
    assert "nothing was charged; 1 request keeps waiting" in out
    code, out, _ = command("unlearn", server, "--json")
    assert (code, json.loads(out)["unserved"], json.loads(out)["windows"]) == (1, 1, [])
    code, out, _ = command("pending", server)
    assert (code, "the budget does not hold its 4 rounds" in out, "1 accepted" in out) == (0, True, True)
    code, out, _ = command("pending", server, "--json")
    assert "the budget does not hold" in json.loads(out)["skipped"]["why"]


def test_a_ledger_that_is_in_use_opens_no_window(field):
    field.ask(0, at=START - 10)
    with field.operated.opened(), pytest.raises(LedgerError):
        field.run(START + 1)
    assert (field.queue.windows(), field.states()) == ([], [State.ACCEPTED])
    second = field.ask(1, at=START + 10)
    (window,) = field.run(START + 20).windows
    assert (window.requests, window.state) == (1, WindowState.CERTIFIED)
    assert field.queue.history(second)[-1].state is State.ACCEPTED, "it came after the window was due"
