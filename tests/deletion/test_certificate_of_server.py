"""Certificates of a server whose clients and committee are nodes of their own, as an auditor is handed them."""

from __future__ import annotations

import sys
from pathlib import Path

import certificate_cast as cast
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deployment"))
from deployed import NOW, Deployment

from secure_fu.deletion import DeletionRequest
from secure_fu.deletion.certificates import (
    Certificate,
    CertificateError,
    CertificateStore,
    Evidence,
    check_certificate,
    read_certificates,
)
from secure_fu.deletion.policy import DeletionPolicy
from secure_fu.deletion.times import time_text
from secure_fu.unlearning import Retrain

POLICY = DeletionPolicy(window_start=NOW % 60, window_seconds=60, hidden_units=2, cover=True)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    made = Deployment(tmp_path_factory.mktemp("deployment"), rounds=3, deletion=POLICY)
    yield made
    made.close()


def store(deployment):
    return CertificateStore(
        deployment.server_directory / "deletion" / "certificates",
        identity=deployment.identities["server"],
        roster=deployment.roster,
        policy_digest=deployment.policy.digest,
        clock=lambda: NOW + 5000,
    )


def test_windows_of_a_real_server_are_certified_and_checked(deployment):
    server = deployment.server
    server.train(rounds=2)
    named = deployment.request(DeletionRequest.some_records("silo-1", (0, 3)), "silo-1", units=3, disclose=True)
    hidden = deployment.request(DeletionRequest.some_records("silo-2", (7,)), "silo-2")
    first = deployment.batch(named, opened=NOW + 60)
    execution = server.delete(first, Retrain(), adaptive=True)
    name = store(deployment).certify(first, execution)
    deployment.restart("silo-0")
    server = deployment.reopen()
    again = server.execution(first.window_id)
    assert again == execution
    assert store(deployment).certify(first, again) == name
    second = deployment.batch(hidden, hidden_units=2, opened=NOW + 180)
    server = deployment.server
    later = server.delete(second, Retrain(), adaptive=True)
    store(deployment).certify(second, later)
    folder = deployment.server_directory / "deletion" / "certificates"
    one, two = read_certificates(folder)
    evidence = Evidence(
        policy=deployment.policy,
        transcript=deployment.server_directory / "transcript.jsonl",
        ledger=server.ledger,
        deletion_policy=POLICY,
        requests=[named],
    )
    findings = check_certificate(one, roster=deployment.roster, evidence=evidence)
    assert "no more and no fewer" in " ".join(findings.proved)
    assert one.body["asked"]["units"] == 3
    # One that was asked for, and two at each of four clients that may have been.
    assert (two.body["asked"]["hidden_units"], two.body["asked"]["units"]) == (2, 9)
    assert [entry["client"] for entry in one.body["wiped"]] == sorted(deployment.clients)
    chained = check_certificate(
        two,
        roster=deployment.roster,
        evidence=Evidence(policy=deployment.policy, transcript=evidence.transcript, earlier=[one]),
    )
    assert "with the 1 before it" in " ".join(chained.proved)
    # The first names its client and counts what that one paid; the second counts what any client may have paid.
    assert one.body["asked"]["requests"][0]["client"] == "silo-1"
    rounds = two.body["accounting"]["rounds"]
    assert all(entry["counts"]["forgotten"] == entry["counts"]["retained"] for entry in rounds)
    body = Certificate.of(two.content).body
    assert "silo-2" not in str(body["asked"])
    assert (body["forgetting"]["kind"], body["forgetting"]["counted"]) == ("certified", "everything")
    assert {entry["rounds"] for entry in body["wiped"]} == {body["transcript"]["rounds"]}
    for found in (findings, chained):
        assert not any("no round" in sentence or "neither list" in sentence for sentence in found.attention)


def test_rounds_of_one_window_are_not_certified_for_another(deployment):
    """The review's forgery: silo-2 asks in private, no round is run, and the server certifies what ran for silo-1."""
    folder = deployment.server_directory / "deletion" / "certificates"
    one, two = read_certificates(folder)
    asked = deployment.request(DeletionRequest.some_records("silo-2", (8,)), "silo-2")
    batch = deployment.batch(asked, opened=NOW + 240)

    def lie(body):
        """Number three, with all of number two but its window and its request, and an order that fits them."""
        body.update(number=3, previous=two.digest.hex(), window=batch.window_id.hex(), wiped=[])
        body["unconfirmed"] = sorted(deployment.clients)
        body["order"]["opened"] = time_text(batch.opened)
        body["asked"]["requests"] = [cast.signed_entry(asked, finished=body["times"]["finished"])]
        body["asked"]["hidden_units"] = 0

    def refused(words, *changes, **given):
        def change(body):
            for one_more in (lie, *changes):
                one_more(body)

        forged = cast.forged(two, change, deployment.identities["server"])
        evidence = Evidence(policy=deployment.policy, requests=[asked], **given)
        with pytest.raises(CertificateError, match=words):
            check_certificate(forged, roster=deployment.roster, evidence=evidence)

    files = {"transcript": deployment.server_directory / "transcript.jsonl", "ledger": deployment.server.ledger}

    def own_run(body):
        run_id = body["transcript"]["run_id"]
        cast.reordered(body)
        body["transcript"]["run_id"] = run_id

    refused("order is not that", **files)
    refused("that of its order", own_run, **files)
    refused("are of run", cast.reordered, **files)
    refused("no later than", cast.reordered, earlier=[one, two], **files)
    later = lambda body: body["ledger"].update(events=body["ledger"]["events"] + 1)  # noqa: E731
    refused("ledger branch of number 2", later, cast.reordered, earlier=[one, two])
    other = lambda body: body["ledger"].update(branch="unlearn/other")  # noqa: E731
    refused("has 0 rounds of the deletion", other, cast.reordered, **files)
    refused("transcript root of number 2", later, other, cast.reordered, earlier=[one, two])
