"""The exchange over Flower's grid: who answers is heard once, who does not is left out, and nobody waits for them."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr")

from flower_harness import ScriptedGrid, running_task
from flwr.app import ConfigRecord, Error, RecordDict

from secure_fu.errors import ArgumentError
from secure_fu.flower.grid_exchange import GridExchange


@pytest.fixture(autouse=True)
def _task():
    with running_task():
        yield


def turned(body: bytes) -> bytes:
    return body[::-1]


def ask(grid, requests, timeout=0.4, **arguments):
    return list(GridExchange(grid, poll_seconds=0.01, **arguments).ask(requests, timeout=timeout))


def test_every_node_gets_its_own_request_and_answers_once():
    grid = ScriptedGrid(dict.fromkeys(range(40), turned))
    requests = {str(number): b"to %d" % number for number in range(40)}
    answers = ask(grid, requests, timeout=20)
    assert len(answers) == 40
    assert dict(answers) == {address: body[::-1] for address, body in requests.items()}
    assert dict(grid.sent) == {int(address): body for address, body in requests.items()}


def test_few_answers_are_in_memory_together():
    grid = ScriptedGrid(dict.fromkeys(range(100), turned))
    assert len(ask(grid, {str(number): b"x" for number in range(100)}, timeout=20)) == 100
    assert grid.most_at_once <= 16


def test_a_request_is_made_once_and_only_when_it_is_sent():
    grid = ScriptedGrid({1: turned, 2: turned})
    made = []

    class Lazy(dict):
        def __getitem__(self, address):
            made.append((address, len(grid.sent)))
            return super().__getitem__(address)

    ask(grid, Lazy({"1": b"a", "2": b"b"}), timeout=20)
    assert made == [("1", 0), ("2", 1)]


def test_the_early_are_handed_out_before_the_late_answer():
    grid = ScriptedGrid({1: turned, 2: turned}, late={1: 10**6})
    answers = GridExchange(grid, poll_seconds=0.01).ask({"1": b"late", "2": b"early"}, timeout=30)
    assert next(answers) == ("2", b"ylrae")
    grid.late[1] = 3
    assert list(answers) == [("1", b"etal")]


def test_silence_ends_at_the_timeout_and_the_silent_are_left_out():
    grid = ScriptedGrid({1: turned, 2: lambda _: None})
    assert ask(grid, {"1": b"a", "2": b"b"}) == [("1", b"a")]
    assert max(grid.lives) <= 0.4  # so the SuperLink hands the request to nobody afterwards


@pytest.mark.parametrize(
    "answer",
    [
        Error(code=2, reason="<class 'ValueError'>: the third record is 0.25"),
        RecordDict({"something": ConfigRecord({"else": 1})}),
        RecordDict(),
    ],
    ids=["Flower's error", "another record", "nothing"],
)
def test_what_is_no_answer_counts_as_silence_and_is_not_waited_for(answer, caplog):
    grid = ScriptedGrid({1: turned, 2: lambda _: answer})
    with caplog.at_level("DEBUG"):
        assert ask(grid, {"1": b"a", "2": b"b"}, timeout=30) == [("1", b"a")]
    assert "record is" not in caplog.text


def test_a_node_that_is_gone_is_passed_over_and_heard_when_it_is_back():
    grid = ScriptedGrid({1: turned, 2: turned})
    exchange = GridExchange(grid, poll_seconds=0.01)
    requests = {"1": b"a", "2": b"b"}
    assert exchange.nodes() == ("1", "2")
    back = grid.nodes.pop(2)
    assert exchange.nodes() == ("1",)
    assert list(exchange.ask(requests, timeout=30)) == [("1", b"a")]
    grid.nodes[2] = back
    assert exchange.nodes() == ("1", "2")
    assert dict(exchange.ask(requests, timeout=30)) == requests


def test_an_answer_to_an_exchange_that_is_over_is_not_taken_for_one_of_the_next():
    grid = ScriptedGrid({1: lambda _: None})
    exchange = GridExchange(grid, poll_seconds=0.01)
    assert list(exchange.ask({"1": b"first"}, timeout=0.1)) == []
    grid.nodes[1] = turned
    assert list(exchange.ask({"1": b"second"}, timeout=20)) == [("1", b"dnoces")]


def test_captures_are_what_travelled(tmp_path):
    grid = ScriptedGrid({5: turned, 6: lambda _: None})
    ask(grid, {"5": b"question", "6": b"unheard", "9": b"unsent"}, capture=tmp_path / "captured")
    ask(grid, {"5": b"again"}, capture=tmp_path / "captured")
    captured = {path.name: path.read_bytes() for path in (tmp_path / "captured").iterdir()}
    assert captured == {
        "000001-request-5.bin": b"question",
        "000002-request-6.bin": b"unheard",
        "000003-answer-5.bin": b"noitseuq",
        "000004-request-5.bin": b"again",
        "000005-answer-5.bin": b"niaga",
    }


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: GridExchange(ScriptedGrid({}), poll_seconds=0), "poll_seconds"),
        (lambda: ask(ScriptedGrid({}), {}, timeout=0), "timeout"),
        (lambda: ask(ScriptedGrid({}), {"/run/node.sock": b""}), "address"),
    ],
)
def test_bad_arguments_are_named(call, argument):
    with pytest.raises(ArgumentError) as caught:
        call()
    assert caught.value.argument == argument
