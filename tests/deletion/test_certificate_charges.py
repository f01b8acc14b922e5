"""Servers that lie about rounds, charges and what follows from them, and sign it."""

from __future__ import annotations

import json
from dataclasses import replace

import certificate_cast as cast
import pytest
from certificate_cast import REQUEST, accounts, certificate, certified, checked, forged, is_refused, roster
from small_federations import federation

from secure_fu.deletion.certificates import (
    CertificateError,
    Counted,
    Evidence,
    check_certificate,
)
from secure_fu.errors import TranscriptError
from secure_fu.unlearning import Retrain, Rollback


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
    from secure_fu.deletion.certificates.figures import accounts_of
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


def test_a_deletion_must_not_hide_its_own_rounds_in_a_try(story):
    """The rounds that were tried out beside are counted as such: they cannot be passed off as the deletion's."""
    parts = {entry["part"] for entry in story.first.body["accounting"]["rounds"]}
    assert {"beside", "deletion"} <= parts

    def change(body):
        body["accounting"]["rounds"] = [entry for entry in body["accounting"]["rounds"] if entry["part"] != "beside"]
        recount(body)

    is_refused(story, story.forged(story.first, change), "'beside'")
