"""Checking certificates of real federations from outside, and servers that lie in theirs."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import certificate_cast as cast
import numpy as np
import pytest
from certificate_cast import accounts, certificate, certified, forged, identities, roster
from small_federations import federation, plan_for, silos

from secure_fu.crypto import Identity, Role, Roster
from secure_fu.deletion import DeletionRequest
from secure_fu.deletion.certificate import Certificate, concerned_clients
from secure_fu.deletion.certificate_accounts import Counted
from secure_fu.deletion.certificate_check import Evidence, check_certificate
from secure_fu.deletion.certificate_evidence import model_digests
from secure_fu.deletion.certificate_schema import CertificateError
from secure_fu.errors import ArgumentError, TranscriptError
from secure_fu.federation.execution_of import before_deletion, execution_of
from secure_fu.learning import mlp
from secure_fu.privacy import Unit
from secure_fu.unlearning import Retrain, Rollback, Scrub

REQUEST = DeletionRequest.some_records("silo-1", (0, 3, 7))
FIRST = DeletionRequest.some_records("silo-3", (1, 2))
LATE = {"silo-3": 2}


class Story:
    """A federation that trained, tried something out, deleted twice, trained on; and its certificates."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        vanishing = {(2, "silo-0"), (3, "silo-2"), (6, "silo-0")}
        with federation(
            directory=directory,
            scheme_name="kahe",
            joins=LATE,
            resumable=True,
            vanishes=lambda number, name: (number, name) in vanishing,
            plan=plan_for(mlp(5, (), 3, 0), rounds=5, branch_rounds=14),
        ) as made:
            made.train(rounds=4)
            made.unlearn(FIRST, Scrub(length=1))
            self.models = [made.state.model]
            self.first, self.outcome = cast.executed(made, directory, FIRST, Rollback())
            self.models.append(made.state.model)
            self.ledger_then = (directory / "ledger.sqlite").stat().st_size
            made.train(rounds=1)
            self.models.append(made.state.model)
            self.second, self.later = cast.executed(
                made,
                directory,
                REQUEST,
                Scrub(length=2),
                adaptive=True,
                disclose=False,
                previous=self.first,
            )
            self.models.append(made.state.model)
            self.roster, self.policy = made.roster, made.policy
        self.identity = cast.server_of(directory)

    def evidence(self, **changes):
        return Evidence(**{"policy": self.policy, "transcript": self.directory / "transcript.jsonl"} | changes)

    def forged(self, one, change):
        return forged(one, change, self.identity)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    return Story(tmp_path_factory.mktemp("story"))


def checked(story, one, **changes):
    return check_certificate(one, roster=story.roster, evidence=story.evidence(**changes))


def is_refused(story, one, *words, error=CertificateError, **changes):
    with pytest.raises(error) as caught:
        checked(story, one, **changes)
    for word in words:
        assert word in str(caught.value)


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
            "method": Rollback(),
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
            method=Retrain(),
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


# Servers that lie, and sign it


def smaller(*path):
    def change(body):
        holder = body
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] *= 0.99

    return change


@pytest.mark.parametrize(
    "path",
    [
        ("confidentiality", "pair", "value"),
        ("confidentiality", "who_asked", "value"),
        ("confidentiality", "group", "pair", "value"),
        ("confidentiality", "group", "who_asked", "value"),
        ("epsilon", 0, "value"),
        ("epsilon", 2, "value"),
        ("epsilon", 3, "value"),
        ("epsilon", 4, "value"),
        ("epsilon", 5, "value"),
    ],
)
def test_an_epsilon_smaller_than_its_charges_give_is_refused(story, path):
    lie = story.forged(story.first, smaller(*path))
    with pytest.raises(CertificateError, match="is stated as"):
        check_certificate(lie, roster=story.roster)


def test_a_certified_epsilon_smaller_than_its_charges_give_is_refused():
    own = accounts(story=cast.RERUN_STORY)
    for counted in Counted:
        honest = certificate(own=own, guarantee=certified(own, counted=counted))
        check_certificate(honest, roster=roster())
        lie = forged(honest, smaller("forgetting", "epsilon"))
        with pytest.raises(CertificateError, match="forgetting is stated as"):
            check_certificate(lie, roster=roster())
    late = forged(certificate(own=own, guarantee=certified(own)), lambda body: body["forgetting"].update(adaptive=True))
    with pytest.raises(CertificateError, match="chosen late"):
        check_certificate(late, roster=roster())


def test_a_claim_of_another_kind_than_the_numbers_is_refused(story):
    own = accounts(story=cast.RERUN_STORY)
    honest = certificate(own=own, guarantee=certified(own))
    noise = {"shift": 0.5, "output_noise": 1.0, "counted": None, "view": "the published models"}
    enough = certified(own) | noise | {"epsilon": 2.2}
    check_certificate(certificate(own=own, guarantee=enough), roster=roster())
    for changes, words in (
        ({"kind": "exact"}, "has numbers"),
        ({"counted": None}, "either from charges or from noise"),
        ({"delta": None}, "no delta"),
        (noise | {"epsilon": 1.0}, "shift and noise give"),
        (noise | {"counted": "basis"}, "either from charges or from noise"),
    ):
        lie = forged(honest, lambda body, said=changes: body["forgetting"].update(said))
        with pytest.raises(CertificateError, match=words):
            check_certificate(lie, roster=roster())
    exact = {"kind": "exact", "assumptions": []}
    # Scrub asks the units to be forgotten to take part: it cannot have been exact.
    is_refused(story, story.forged(story.second, lambda body: body["forgetting"].update(exact)), "entered the deletion")


def test_an_exact_claim_of_a_named_client_that_had_paid_is_refused(tmp_path):
    with federation(directory=tmp_path, rounds=4, resumable=True) as made:
        made.train()
        one, _ = cast.executed(made, tmp_path, REQUEST, Rollback(forget_epsilon=30.0))
    blank = dict.fromkeys(("epsilon", "delta", "group_size", "view", "counted"))
    lie = forged(one, lambda body: body["forgetting"].update(kind="exact", **blank), cast.server_of(tmp_path))
    with pytest.raises(CertificateError, match="had charged the units"):
        check_certificate(lie, roster=made.roster)


def recount(body):
    """Make all stated figures follow from the charges again, as a clever liar would."""
    from secure_fu.deletion.certificate_figures import accounts_of
    from secure_fu.privacy import Phase, Subject

    own = accounts_of(body)
    for group in (body["confidentiality"], body["confidentiality"]["group"]):
        if group is not None:
            size = group["phase"]["group_size"]
            for name, value in own.confidentiality(delta=group["phase"]["delta"], group_size=size).items():
                group[name]["value"] = value
    for entry in body["epsilon"]:
        entry["value"] = own.epsilon(
            Subject(entry["subject"]), Phase(entry["phase"]), delta=entry["delta"], group_size=1
        )


def one_round_less(body):
    for entry in body["accounting"]["rounds"]:
        if entry["part"] in ("basis", "before"):
            entry["counts"]["forgotten"] = [max(0, count - 1) for count in entry["counts"]["forgotten"]]
    recount(body)


def one_round_more(body):
    entry = body["accounting"]["rounds"][-1]
    entry["counts"]["retained"] = [count + 1 for count in entry["counts"]["retained"]]
    body["transcript"]["rounds"] += 1
    recount(body)


def more_noise(body):
    for entry in body["accounting"]["rounds"]:
        for name in ("forgotten", "retained"):
            if entry[name] is not None:
                entry[name]["noise_multiplier"] *= 1.1
    recount(body)


def less_sampling(body):
    for entry in body["accounting"]["rounds"]:
        if entry["retained"] is not None:
            entry["retained"]["sampling_rate"] *= 0.5
    recount(body)


def other_part(body):
    for entry in body["accounting"]["rounds"]:
        if entry["part"] == "before":
            entry["part"] = "beside"
    recount(body)


@pytest.mark.parametrize("change", [one_round_less, one_round_more, more_noise, less_sampling, other_part])
def test_charges_that_are_not_the_transcripts_are_refused(story, change):
    """The lie adds up: without the transcript it passes, and says that it was not checked. With it, it does not."""
    lie = story.forged(story.first, change)
    findings = check_certificate(lie, roster=story.roster)
    assert any("--transcript" in sentence for sentence in findings.not_checked)
    is_refused(story, lie)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body["transcript"].update(root="ab" * 32), "is no release of"),
        (lambda body: body["transcript"].update(before="ab" * 32), "after"),
        (lambda body: body["transcript"].update(rounds=body["transcript"]["rounds"] + 1), "rounds of the deletion"),
        (lambda body: body["transcript"].update(run_id="ab" * 16), "are of run"),
        (lambda body: body["parameter_sets"].clear(), "encrypted under"),
        (lambda body: body["ledger"].update(branch="original"), "rounds of the deletion"),
        (lambda body: body["accounting"]["basis"].clear(), "other rounds"),
        (lambda body: body.update(policy="ab" * 32), "policy"),
        (lambda body: body.update(roster="ab" * 32), "roster"),
        (lambda body: body.update(server="ada"), "signed by"),
        (lambda body: body["times"].update(finished="2000-01-01T00:00:00Z"), "not in order"),
        (lambda body: body["epsilon"].pop(), "one entry for each"),
        (lambda body: body["confidentiality"].update(group=None), "as a group"),
        (lambda body: body["confidentiality"]["pair"].update(delta=0.5), "delta"),
        (lambda body: body["confidentiality"]["pair"].update(value=None), ""),
        (lambda body: body.update(unconfirmed=["b", "a"]), "not sorted"),
        (lambda body: body.update(previous="ab" * 32), "only the first follows none"),
        (lambda body: body.update(number=2), "--"),
    ],
)
def test_what_does_not_fit_the_files_is_named(story, change, words):
    assert story.first.body["accounting"]["basis"] == [{"branch": "original", "last_round": 1}]
    lie = story.forged(story.first, change)
    if words in ("", "--"):  # saying less is no lie
        findings = checked(story, lie)
        assert any("unbounded" in said for said in findings.attention) or "--chain" in " ".join(findings.not_checked)
        return
    is_refused(story, lie, words)


def test_a_rerun_from_another_model_than_its_guarantee_rests_on_is_refused(story):
    """The lineage is stated as longer than it is: then the guarantee would rest on a later model."""

    def change(body):
        assert body["forgetting"]["kind"] == "exact"
        body["accounting"]["basis"] = [{"branch": "original", "last_round": 0}]
        for entry in body["accounting"]["rounds"]:
            if entry["part"] == "before":
                entry["counts"] = {name: [count - 1 for count in row] for name, row in entry["counts"].items()}

    is_refused(story, story.forged(story.first, change))


@pytest.mark.parametrize(
    "basis",
    [
        [{"branch": "nowhere", "last_round": 5}],
        [{"branch": "original", "last_round": 77}],
        [{"branch": "unlearn/scrub", "last_round": 4}],
        [{"branch": "original", "last_round": 3}],
        [{"branch": "original", "last_round": 0}],
    ],
)
def test_a_guarantee_rests_on_a_model_that_the_transcript_shows(story, basis):
    """A basis that is made up would make a certified epsilon as small as one likes."""

    def change(body):
        body["accounting"]["basis"] = basis
        for entry in body["accounting"]["rounds"]:
            entry["part"] = {"basis": "before"}.get(entry["part"], entry["part"])
        merged = {}
        for entry in body["accounting"]["rounds"]:
            key = json.dumps({**entry, "counts": None})
            if key in merged:
                for name, row in entry["counts"].items():
                    merged[key]["counts"][name] = [a + b for a, b in zip(merged[key]["counts"][name], row, strict=True)]
            else:
                merged[key] = entry
        body["accounting"]["rounds"] = list(merged.values())
        recount(body)

    is_refused(story, story.forged(story.first, change))


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


def test_a_ledger_that_tells_otherwise_is_named(story, tmp_path):
    from secure_fu.privacy import PrivacyLedger

    with PrivacyLedger.open(story.directory / "ledger.sqlite", read_only=True) as ledger:
        for change in (one_round_less, lambda body: body["ledger"].update(events=10_000)):
            lie = story.forged(story.first, change)
            is_refused(story, lie, "ledger", transcript=None, ledger=ledger)
        lie = story.forged(story.first, lambda body: body["ledger"].update(events=body["ledger"]["events"] - 1))
        is_refused(story, lie, "other rounds than the ledger", transcript=None, ledger=ledger)


def test_a_transcript_that_is_cut_or_touched_is_named(story, tmp_path):
    lines = (story.directory / "transcript.jsonl").read_text().splitlines(keepends=True)
    path = tmp_path / "transcript.jsonl"
    path.write_text("".join(lines[:6]))
    is_refused(story, story.first, "is no release of", transcript=path)
    path.write_text("".join([lines[0].replace('"minimum_cohort": 3', '"minimum_cohort": 2'), *lines[1:]]))
    is_refused(story, story.first, "line 1", transcript=path, error=TranscriptError)


def test_after_a_change_of_roster_the_transcript_may_begin_later_but_shows_the_deletion(tmp_path):
    """The transcript's first rounds are put away, as a server does that changes its roster; the ledger goes on."""
    with federation(directory=tmp_path, rounds=4, resumable=True) as made:
        made.train(rounds=2)
        path = tmp_path / "transcript.jsonl"
        (tmp_path / "epochs" / "1").mkdir(parents=True)
        path.rename(tmp_path / "epochs" / "1" / path.name)
        made._line.begun.transcript._head = bytes(32)
        made.train()
        one, _ = cast.executed(made, tmp_path, REQUEST, Retrain())
        evidence = Evidence(transcript=path)
        with pytest.raises(CertificateError, match="charges other rounds"):
            check_certificate(one, roster=made.roster, evidence=evidence)
        later = replace(evidence, begins_later=True)
        findings = check_certificate(one, roster=made.roster, evidence=later)
        assert any("came before this transcript begins" in sentence for sentence in findings.not_checked)
        identity = cast.server_of(tmp_path)
        for change in (own_round_less, less_sampling, take_all_training):
            with pytest.raises(CertificateError, match="charges other rounds"):
                check_certificate(forged(one, change, identity), roster=made.roster, evidence=later)


def own_round_less(body):
    for entry in body["accounting"]["rounds"]:
        if entry["part"] == "deletion":
            entry["counts"]["retained"] = [count - 1 for count in entry["counts"]["retained"]]
            entry["counts"]["forgotten"] = [count - 1 for count in entry["counts"]["forgotten"]]
    recount(body)


def test_rounds_of_its_run_are_not_left_out_at_the_end(story):
    """The root is that of the deletion's last round but one, and all figures are those of one round less."""
    lines = [json.loads(line) for line in (story.directory / "transcript.jsonl").read_text().splitlines()]
    own = [line for line in lines if line["run_id"] == story.second.body["transcript"]["run_id"]]
    assert len(own) == 2

    def change(body):
        body["transcript"].update(root=own[0]["hash"], rounds=1)
        own_round_less(body)

    lie = story.forged(story.second, change)
    check_certificate(lie, roster=story.roster)
    is_refused(story, lie, "its run has 2 rounds of a deletion")


def take_all_training(body):
    for entry in body["accounting"]["rounds"]:
        if entry["part"] != "deletion":
            entry["counts"] = {name: [0 for _ in row] for name, row in entry["counts"].items()}
    recount(body)


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


def test_a_deletion_must_not_hide_its_own_rounds_in_a_try(story):
    """The rounds that were tried out beside are counted as such: they cannot be passed off as the deletion's."""
    parts = {entry["part"] for entry in story.first.body["accounting"]["rounds"]}
    assert {"beside", "deletion"} <= parts

    def change(body):
        body["accounting"]["rounds"] = [entry for entry in body["accounting"]["rounds"] if entry["part"] != "beside"]
        recount(body)

    is_refused(story, story.forged(story.first, change), "'beside'")


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
