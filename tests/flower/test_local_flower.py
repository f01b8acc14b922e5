"""A SuperLink and SuperNodes of this machine: who is let in, and that nothing is left running. Half a minute."""

from __future__ import annotations

import json
import os

import pytest

pytest.importorskip("flwr")

from flower_harness import write_echo_app
from waiting import wait_until

from secure_fu.deployment.local import LocalProcessError, Processes
from secure_fu.errors import ArgumentError
from secure_fu.flower.certificates import make_node_key
from secure_fu.flower.local import LocalFlower


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.timeout(300)
def test_registered_nodes_answer_others_are_refused_and_all_processes_end(tmp_path):
    app = write_echo_app(tmp_path / "app")
    stranger = make_node_key(tmp_path / "stranger", "stranger")
    with LocalFlower(tmp_path / "flower", {"north": {"name": "the north"}, "south": {"name": "the south"}}) as flower:
        pids = flower.pids
        outcome = flower.run(app, {"out": str(tmp_path / "out.json"), "nodes": 2}, timeout=120)
        assert outcome.status == "finished:completed", outcome.log
        names = json.loads((tmp_path / "out.json").read_text())
        assert names == {str(flower.node_ids["north"]): "the north", str(flower.node_ids["south"]): "the south"}
        flower.stop_node("south", kill=True)
        flower.start_node("south", key=stranger)
        wait_until(lambda: "south" not in flower.pids, "Flower's process ends, for the SuperLink does not know its key")
        pids |= flower.pids
        with pytest.raises(LocalProcessError, match="nowhere"):
            flower.run(tmp_path / "nowhere")
    assert set(pids) == {"superlink", "north", "south"}
    assert not any(is_running(pid) for pid in pids.values())


def test_processes_end_with_what_they_started(tmp_path):
    processes = Processes(tmp_path)
    processes.start("one", ["sh", "-c", "sleep 1000 & echo $!; trap '' TERM; wait"], dict(os.environ))
    log = processes.log("one")
    wait_until(lambda: log.read_text().endswith("\n"), "the shell names the process that it started")
    text = log.read_text()
    with pytest.raises(ArgumentError):
        processes.start("one", ["true"], {})
    processes.end(["one"], kill=True)
    wait_until(lambda: not is_running(int(text)), "it is gone", seconds=10.0)
    assert processes.pids == {}
    with pytest.raises(LocalProcessError, match=r"one\.log"):
        processes.check("one")


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [({"nodes": {"superlink": {}}}, "nodes"), ({"nodes": {"a": {}}, "poll_seconds": 0.0}, "poll_seconds")],
)
def test_bad_arguments_are_named(tmp_path, arguments, argument):
    with pytest.raises(ArgumentError) as caught:
        LocalFlower(tmp_path, **arguments)
    assert caught.value.argument == argument
