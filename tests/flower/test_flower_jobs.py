"""What a run does with a server's directory, and what it tells; over an exchange in this process."""

from __future__ import annotations

import json
import logging
import time
from contextlib import ExitStack

import pytest

pytest.importorskip("flwr")

from clinics import CLINICS

from secure_fu.crypto.identity_file import read_identities
from secure_fu.deletion import DeletionRequest
from secure_fu.deletion.certificates import read_certificate
from secure_fu.deletion.policy import read_deletion_policy
from secure_fu.deletion.requests import sign_request
from secure_fu.deployment.exchange.exchange import InProcessExchange
from secure_fu.deployment.founding.setup import read_roster
from secure_fu.deployment.node import Node
from secure_fu.deployment.server import FederationServer, open_queue, run_job, write_report
from secure_fu.errors import ConfigError, LedgerError
from secure_fu.flower import server_app as server_app_module


def test_jobs_follow_one_another_and_tell_what_they_did(federation, tmp_path):
    server = federation / "server"
    roster, now = read_roster(server / "roster.bin"), int(time.time())
    with ExitStack() as opened:
        nodes = {name: opened.enter_context(Node.open(federation / "nodes" / name)) for name in CLINICS}
        exchange = InProcessExchange(nodes)
        looked = run_job(server, exchange, job="status")
        assert (looked["rounds"], looked["deletions"], looked["traffic"]) == (0, 0, [])
        assert looked["present"] == sorted(party for parties in CLINICS.values() for party in parties)
        assert run_job(server, exchange, job="train", rounds=1)["rounds"] == 1
        trained = run_job(server, exchange, job="train")
        assert trained["rounds"] == 2
        assert [traffic["round_number"] for traffic in trained["traffic"]] == [1]
        nothing = run_job(server, exchange, job="unlearn", at_once=True)
        assert nothing["windows"] == []
        assert nothing["skipped"]
        request = sign_request(
            read_identities(federation / "nodes" / "node-2" / "keys.bin")["clinic-2"],
            DeletionRequest.some_records("clinic-2", (1, 2)),
            roster=roster,
            units=2,
            submitted=now,
            deadline=now + 10 * 86400,
        )
        with open_queue(server, make=True) as queue:
            queue.submit(request, roster=roster, policy=read_deletion_policy(server / "deletion.toml"), now=now)
        unlearned = run_job(server, exchange, job="unlearn", at_once=True)
        (window,) = unlearned["windows"]
        assert (window["state"], unlearned["deletions"]) == ("certified", 1)
        assert unlearned["model"] != trained["model"]
        certificate = read_certificate(server / "deletion" / "certificates" / window["certificate"])
        assert certificate.body["model"] == {"before": trained["model"], "after": unlearned["model"]}
        with pytest.raises(ConfigError, match="job"):
            run_job(server, exchange, job="forget")
    write_report(unlearned, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == unlearned


class Context:
    """As much of Flower's as the ServerApp looks at."""

    def __init__(self, **config):
        self.run_config = config


def told(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    return [json.loads(line) for line in lines]


def run_app(monkeypatch, exchange, **config):
    monkeypatch.setattr(server_app_module, "GridExchange", lambda *_, **__: exchange)
    for name, kept in (("secure_fu", ("handlers", "level", "propagate")), ("flwr", ("filters",))):
        for attribute in kept:
            value = getattr(logging.getLogger(name), attribute)
            monkeypatch.setattr(logging.getLogger(name), attribute, [*value] if isinstance(value, list) else value)
    server_app_module.server_app()(grid=None, context=Context(**config))


def test_a_run_tells_its_rounds_and_who_is_there(federation, monkeypatch, capsys):
    config = {"server-directory": str(federation / "server")}
    with ExitStack() as opened:
        nodes = {name: opened.enter_context(Node.open(federation / "nodes" / name)) for name in CLINICS}
        run_app(monkeypatch, InProcessExchange(nodes), job="train", rounds=1, **config)
        lines = told(capsys)
        assert [line["round"] for line in lines if line["event"] == "round-released"] == [0]
        assert (lines[-1]["event"], lines[-1]["kind"], lines[-1]["rounds"]) == ("job-done", "train", 1)
        del nodes["node-2"]
        run_app(monkeypatch, InProcessExchange(nodes), job="status", **config)
        (done,) = [line for line in told(capsys) if line["event"] == "job-done"]
        assert done["missing"] == ["clinic-2", "member-2"]
        assert done["present"] == sorted({"clinic-1", "clinic-3", "clinic-4", "member-1", "member-3", "member-4"})


def test_a_refusal_is_one_event_and_ends_the_run_and_a_bug_keeps_its_trace(federation, monkeypatch, capsys):
    """Flower marks a run as failed when its ServerApp raises, and shows the message; it logs the trace of a bug."""
    config = {"server-directory": str(federation / "server"), "job": "train"}
    flower = logging.getLogger("flwr")
    with FederationServer.open(federation / "server", InProcessExchange({})), pytest.raises(LedgerError) as caught:
        run_app(monkeypatch, InProcessExchange({}), **config)
    (line,) = [line for line in told(capsys) if line["event"] == "job-refused"]
    assert (line["level"], line["error"]) == ("error", "LedgerError")
    assert "is open in another process" in line["reason"]

    def shown(error):
        record = flower.makeRecord("flwr", logging.ERROR, "", 0, "%s raised an exception", ("ServerApp",), None)
        record.exc_info = (type(error), error, error.__traceback__)
        assert flower.filter(record)
        return logging.Formatter().format(record)

    assert shown(caught.value) == "ServerApp raised an exception"
    with pytest.raises(ZeroDivisionError) as bug:
        1 / 0  # noqa: B018
    assert "Traceback" in shown(bug.value)
