"""Checking certificates of real federations from outside: what holds, and what is told of what is handed in."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import certificate_cast as cast
import numpy as np
import pytest
from certificate_cast import (
    LATE,
    REQUEST,
    accounts,
    certificate,
    checked,
    forged,
    identities,
    is_refused,
    roster,
)
from small_federations import federation, silos

from secure_fu.crypto import Identity, Role, Roster
from secure_fu.deletion import DeletionRequest
from secure_fu.deletion.certificates import (
    Certificate,
    CertificateError,
    Evidence,
    check_certificate,
    concerned_clients,
)
from secure_fu.deletion.certificates.evidence import model_digests
from secure_fu.errors import ArgumentError
from secure_fu.federation.execution_of import before_deletion, execution_of
from secure_fu.learning import mlp
from secure_fu.privacy import Unit
from secure_fu.unlearning import Retrain, Rollback, Scrub, settings_of

# What holds


def test_both_certificates_hold_against_everything(story, tmp_path):
    from secure_fu.privacy import PrivacyLedger

    for name, model in zip(("a", "b", "c", "d"), story.models, strict=True):
        np.save(tmp_path / f"{name}.npy", model.vector)
    with PrivacyLedger.open(story.directory / "ledger.sqlite", read_only=True) as ledger:
        first = checked(
            story, story.first, ledger=ledger, model_before=tmp_path / "a.npy", model_after=tmp_path / "b.npy"
        )
        second = checked(
            story,
            story.second,
            ledger=ledger,
            earlier=[story.first],
            model_before=tmp_path / "c.npy",
            model_after=tmp_path / "d.npy",
        )
    assert (first.not_checked, second.not_checked) == ((), ())
    said = " ".join(first.proved)
    for words in (
        "not one letter",
        "no more and no fewer",
        "the very model",
        "ledger",
        "the one before",
        "goes on after",
    ):
        assert words in said, words
    assert "with the 1 before it" in " ".join(second.proved)
    assert any("tried out beside" in sentence for sentence in first.attention)
    assert any("no proof" in sentence for sentence in second.attention)
    assert any("No audit was run" in sentence for sentence in second.attention)
    for findings in (first, second):
        never = " ".join(findings.not_proved)
        for words in ("true sum", "destroyed its copies", "its signed word", "server's clock"):
            assert words in never, words
        json.dumps(findings.to_json(), allow_nan=False)


def test_the_figures_are_those_of_the_outcome(story):
    """The requester is named: the very figures of the run. The hidden one: no smaller, whoever asked."""
    body = story.first.body
    for name in ("phase", "pair", "who_asked"):
        assert body["confidentiality"][name]["value"] == pytest.approx(
            getattr(story.outcome.confidentiality, name).value, rel=1e-9
        )
    mine = {(entry["subject"], entry["phase"]): entry["value"] for entry in body["epsilon"]}
    for entry in story.outcome.epsilon:
        if entry.subject.value == "forgotten":
            assert mine[entry.subject.value, entry.phase.value] == pytest.approx(entry.value, rel=1e-9)
    for name in ("phase", "pair", "who_asked"):
        shown = story.second.body["confidentiality"][name]["value"]
        assert shown >= getattr(story.later.confidentiality, name).value * (1 - 1e-9)
    assert story.first.body["forgetting"]["kind"] == story.outcome.guarantee.kind


def test_without_files_it_says_what_was_not_checked(story):
    findings = check_certificate(story.second, roster=story.roster)
    said = " ".join(findings.not_checked)
    for option in ("--policy", "--transcript", "--ledger", "--chain", "--model-before", "--model-after"):
        assert option in said


@pytest.mark.parametrize(
    ("method", "adaptive", "kind", "counted"),
    [
        (Retrain(), False, "exact", None),
        (Retrain(), True, "certified", "everything"),
        (Rollback(), False, "exact", None),
        (Rollback(forget_epsilon=15.0), False, "certified", "basis"),
        (Rollback(forget_epsilon=15.0), True, "certified", "everything"),
        (Scrub(length=1), False, "heuristic", None),
    ],
)
@pytest.mark.parametrize("disclose", [True, False])
def test_every_kind_of_guarantee_is_certified_and_checked(tmp_path, method, adaptive, kind, counted, disclose):
    with federation(directory=tmp_path, rounds=4, resumable=True, methods=[method]) as made:
        made.train()
        one, outcome = cast.executed(made, tmp_path, REQUEST, method, adaptive=adaptive, disclose=disclose)
        said = one.body["forgetting"]
        assert (said["kind"], said["counted"], said["adaptive"]) == (kind, counted, adaptive)
        if kind == "certified":
            known = outcome.guarantee.epsilon
            assert said["group_size"] == (3 if disclose else 4)
            assert said["epsilon"] == pytest.approx(known, rel=1e-9) if disclose else said["epsilon"] > known
        findings = check_certificate(
            one,
            roster=made.roster,
            evidence=Evidence(policy=made.policy, transcript=tmp_path / "transcript.jsonl", ledger=made.ledger),
        )
        shown = any("the very model" in sentence for sentence in findings.proved)
        assert shown is (kind == "exact" or counted == "basis")
        # A kill after the deletion: what its certificate is made of is still there.
        before = before_deletion(made)
    assert before.executed == 1


@pytest.mark.parametrize("unit", list(Unit))
def test_every_unit_and_scheme(tmp_path, unit):
    request = {
        Unit.RECORD: REQUEST,
        Unit.GROUP: DeletionRequest.person("p2-1", "p2-4"),
        Unit.CLIENT: DeletionRequest.whole_client("silo-1"),
    }[unit]
    with federation(unit, directory=tmp_path, rounds=2, resumable=True, scheme_name="bfv") as made:
        made.train()
        one, _ = cast.executed(made, tmp_path, request, Retrain())
        findings = check_certificate(
            one,
            roster=made.roster,
            evidence=Evidence(policy=made.policy, transcript=tmp_path / "transcript.jsonl", ledger=made.ledger),
        )
    assert one.body["accounting"]["unit"] == unit.value
    assert one.body["asked"]["requests"][0]["client"] == (None if unit is Unit.GROUP else "silo-1")
    assert len(findings.figures) >= 9


def test_a_deletion_without_a_round_is_certified(tmp_path):
    """A bound so loose that the model as it is fulfils it."""
    method = Rollback(forget_epsilon=200.0)
    with federation(directory=tmp_path, rounds=2, resumable=True, methods=[method]) as made:
        made.train()
        one, _ = cast.executed(made, tmp_path, REQUEST, method)
        findings = check_certificate(
            one,
            roster=made.roster,
            evidence=Evidence(transcript=tmp_path / "transcript.jsonl", ledger=made.ledger),
        )
    assert one.body["transcript"]["rounds"] == 0
    assert one.body["transcript"]["root"] == one.body["transcript"]["before"]
    assert any("0 rounds of the deletion" in sentence for sentence in findings.proved)


def test_after_a_restart_the_same_certificate_is_made(tmp_path):
    from secure_fu.federation import Federation

    with federation(directory=tmp_path, rounds=3, resumable=True) as made:
        made.train()
        before = before_deletion(made, now=cast.NOW)
        made.delete(REQUEST, Rollback(), adaptive=False)
        terms = {
            "transcript": tmp_path / "transcript.jsonl",
            "settings": settings_of(Rollback()),
            "window_id": bytes(16),
            "concerned": None,
            "finished": cast.NOW,
        }
        first = execution_of(made, before, **terms)
    written = json.loads(json.dumps(before.to_json()))
    with Federation.open(tmp_path, mlp(5, (), 3, 0), silos()) as again:
        assert execution_of(again, type(before)(**written), **terms) == first
        with pytest.raises(ArgumentError, match=r"before\.executed"):
            execution_of(again, before_deletion(again), **terms)


# Who asked


def made_by(directory, client, *, concerned=None):
    """The execution of a hidden request of one client, where silo-3 joined late and holds more records."""
    clients = silos() | {"silo-3": silos(5, size=14)["silo-4"]}
    with federation(directory=directory, rounds=4, joins=LATE, clients=clients) as made:
        made.train()
        before = before_deletion(made, now=cast.NOW)
        request = DeletionRequest.some_records(client, range(3 if client == "silo-0" else 4))
        made.delete(request, Retrain(), adaptive=True)
        return execution_of(
            made,
            before,
            transcript=directory / "transcript.jsonl",
            settings=settings_of(Retrain()),
            window_id=bytes(16),
            concerned=concerned_clients(request) if concerned is None else concerned,
            finished=cast.NOW,
        )


def visible(known):
    """What an onlooker may compare: all but what is random in every run."""
    return replace(
        known,
        run_id="",
        model_before="0" * 64,
        model_after="0" * 64,
        transcript_before="0" * 64,
        transcript_root="0" * 64,
    )


def test_nothing_in_an_execution_depends_on_who_asked_and_hid(tmp_path):
    for name in ("old", "new", "told"):
        (tmp_path / name).mkdir()
    old, new = made_by(tmp_path / "old", "silo-0"), made_by(tmp_path / "new", "silo-3")
    assert visible(old) == visible(new)
    assert old.group_size == 4  # three and four records look alike
    # The distinguisher has eyes: with the charges of the client that asked, the late one shows.
    told = made_by(tmp_path / "told", "silo-3", concerned=["silo-3"])
    assert visible(told).confidentiality["pair"]["value"] < old.confidentiality["pair"]["value"] - 0.1


def test_training_goes_on_from_the_model_after(story):
    assert any("Training went on from" in sentence for sentence in checked(story, story.first).proved)
    lie = story.forged(story.first, lambda body: body["model"].update(after="ab" * 32))
    is_refused(story, lie, "training went on from model")
    assert not any(
        "Training went on from" in said for said in checked(story, story.second, earlier=[story.first]).proved
    )


def test_who_has_a_signed_request_can_show_that_it_was_served():
    hidden, named = cast.request("ada"), cast.request("bob", disclose=True)
    one = certificate(cast.batch(hidden, named))

    def with_requests(found, *requests):
        return check_certificate(found, roster=roster(), evidence=Evidence(requests=requests))

    assert any("--request" in sentence for sentence in with_requests(one, hidden).not_checked)
    both = with_requests(one, hidden, named)
    assert not any("--request" in sentence for sentence in both.not_checked)
    assert sum("which 'ada' signed" in sentence for sentence in both.proved) == 1
    with pytest.raises(CertificateError, match="not among those"):
        with_requests(one, cast.request("ada"))
    unsigned = replace(hidden, signature=bytes(64))
    with pytest.raises(CertificateError, match="not genuine"):
        with_requests(certificate(cast.batch(unsigned)), unsigned)

    def blame(body):
        for entry in body["asked"]["requests"]:
            if entry["requester"]["commitment"] == named.digest.hex():
                entry["requester"]["name"] = "eve"

    with pytest.raises(CertificateError, match="says otherwise"):
        with_requests(forged(one, blame), named)


def test_fewer_units_than_were_asked_for_are_refused():
    one = certificate(cast.batch(cast.request("bob", disclose=True)), accounts(("bob",)))
    lie = forged(one, lambda body: body["asked"]["requests"][0].update(units=4))
    with pytest.raises(CertificateError, match="more were asked for"):
        check_certificate(lie, roster=roster())


def test_earlier_certificates_of_another_roster_are_held_by_their_hashes():
    first = certificate()
    other = Identity.generate("server", Role.SERVER)
    fresh = Roster.of([other.party, *(identities()[name].party for name in cast.CLIENTS)])
    second = certificate(
        previous=first,
        identity=other,
        roster=fresh,
        ledger_events=12,
        started=cast.NOW + 100,
        finished=cast.NOW + 200,
        issued=cast.NOW + 200,
    )
    findings = check_certificate(second, roster=fresh, evidence=Evidence(earlier=[first]))
    assert any("which another roster checks" in sentence for sentence in findings.not_checked)
    touched = forged(first, lambda body: body.update(unconfirmed=[]), other)
    with pytest.raises(CertificateError, match="follows"):
        check_certificate(second, roster=fresh, evidence=Evidence(earlier=[touched]))


def test_another_server_or_roster_is_told(story):
    stranger = Identity.generate("server", Role.SERVER)
    lie = forged(story.first, lambda body: None, stranger)
    is_refused(story, lie, "edited or forged")
    is_refused(story, forged(story.first, lambda body: None, identities()["ada"]), "signed by 'ada'")
    with pytest.raises(CertificateError, match="with roster"):
        check_certificate(story.first, roster=roster())
    twice = Roster.of([*(party for party in story.roster.parties), Identity.generate("other", Role.SERVER).party])
    lie = story.forged(story.first, lambda body: body.update(roster=twice.digest.hex()))
    with pytest.raises(CertificateError, match="the roster's server"):
        check_certificate(lie, roster=twice)


def test_a_confirmation_that_its_client_did_not_sign_is_told():
    honest = certificate()
    assert len(honest.body["wiped"]) == 2

    def stolen(body):
        body["wiped"][0]["signature"] = body["wiped"][1]["signature"]

    def invented(body):
        body["wiped"] = sorted(
            [*body["wiped"], {"client": "eve", "rounds": 4, "commitment": "00" * 32, "signature": "00" * 64}],
            key=lambda entry: entry["client"],
        )
        body["unconfirmed"] = []

    def of_another_window(body):
        body["window"] = "00" * 16
        cast.reordered(body)

    for change in (stolen, invented, of_another_window):
        with pytest.raises(CertificateError, match="did not sign"):
            check_certificate(forged(honest, change), roster=roster())
    both = forged(honest, lambda body: body.update(unconfirmed=["ada"]))
    with pytest.raises(CertificateError, match="both confirmed"):
        check_certificate(both, roster=roster())
    assert any("eve" in said for said in check_certificate(honest, roster=roster()).attention)


def test_another_model_or_audit_is_told(story, tmp_path):
    np.save(tmp_path / "other.npy", story.models[0].vector + np.float32(1e-6))
    is_refused(story, story.first, "is not the one before", model_before=tmp_path / "other.npy")
    is_refused(story, story.first, "no audit was run", audit=b"{}")
    for content in (b"", b"\x93NUMPY", os.urandom(300)):
        (tmp_path / "bad.npy").write_bytes(content)
        shutil.copy(tmp_path / "bad.npy", tmp_path / "bad.safetensors")
        for name in ("bad.npy", "bad.safetensors"):
            is_refused(story, story.first, "model is", error=ArgumentError, model_before=tmp_path / name)


def test_a_model_is_known_by_its_checkpoint_and_by_its_layers(story, tmp_path):
    from safetensors.torch import save_file

    state = next((story.directory).glob("main_line-*.safetensors"))
    assert story.models[3].digest.hex() in model_digests(state)
    deep = mlp(5, (4, 4, 4), 3, 0)
    save_file({name: value.contiguous() for name, value in deep.state_dict().items()}, tmp_path / "deep.safetensors")
    vector = np.concatenate([value.numpy().ravel() for value in deep.state_dict().values()])
    np.save(tmp_path / "deep.npy", vector)
    (one,) = model_digests(tmp_path / "deep.npy")
    assert one in model_digests(tmp_path / "deep.safetensors")


def test_a_chain_with_a_hole_or_another_certificate_in_it_is_told(story):
    twin = story.forged(story.first, lambda body: body["times"].update(issued="2030-01-01T00:00:00Z"))
    is_refused(story, story.second, "follows", earlier=[twin])
    outsider = certificate()
    is_refused(story, story.second, "follows", earlier=[outsider])
    unsigned = Certificate.of(cast.unsigned_change(story.first, lambda body: body.update(unconfirmed=["ada"])))
    is_refused(story, story.second, "edited or forged", earlier=[unsigned])


def test_it_reads_what_it_wrote(story, tmp_path):
    (tmp_path / "c.json").write_bytes(story.first.content)
    assert Certificate.of(story.first.content).body == story.first.body
