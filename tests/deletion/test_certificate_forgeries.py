"""Servers that lie, sign it, and give every file: each lie is refused, or told to whoever reads."""

from __future__ import annotations

import certificate_cast as cast
import pytest
from certificate_cast import CLIENTS, DAY, NOW, accounts, batch, certificate, forged, request, roster
from small_federations import federation, plan_for

from secure_fu.crypto.wire import encode
from secure_fu.deletion import DeletionRequest
from secure_fu.deletion.certificates import CertificateError, Evidence, check_certificate
from secure_fu.deletion.certificates.evidence import check_windows
from secure_fu.deletion.certificates.figures import accounts_of
from secure_fu.deletion.policy import DeletionPolicy
from secure_fu.deletion.requests import sign_request
from secure_fu.learning import mlp
from secure_fu.privacy import Phase, PrivacyLedger, Subject
from secure_fu.unlearning import Scrub


def checked(one, **evidence):
    return check_certificate(one, roster=roster(), evidence=Evidence(**evidence))


def is_refused(one, words, **evidence):
    with pytest.raises(CertificateError, match=words):
        checked(one, **evidence)


# A window that passes off another's rounds as its own


def first_and_second(**changes):
    """Two honest windows, chained; ada asks in the first, eve in the second, in private."""
    first = certificate(batch(request(disclose=True)), accounts(("ada",)))
    later = {"ledger_events": 20, "started": NOW + 100, "finished": NOW + 200, "issued": NOW + 300}
    asked = batch(request("eve"), opened=NOW + 50)
    return first, certificate(asked, previous=first, **later | changes), asked


def test_two_windows_of_a_chain_share_nothing():
    first, second, _ = first_and_second()
    assert "with the 1 before it" in " ".join(checked(second, earlier=[first]).proved)

    def other_branch(body):
        body["ledger"]["branch"] = first.body["ledger"]["branch"]
        cast.reordered(body)

    def other_root(body):
        body["transcript"]["root"] = first.body["transcript"]["root"]

    def no_later(body):
        body["ledger"]["events"] = first.body["ledger"]["events"]

    is_refused(forged(second, other_branch), "ledger branch of number 1", earlier=[first])
    is_refused(forged(second, other_root), "transcript root of number 1", earlier=[first])
    is_refused(forged(second, no_later), "no later than", earlier=[first])


def test_the_same_window_has_one_certificate_in_a_chain():
    """The server tries to certify the first window again, as number two."""
    first, _, _ = first_and_second()

    def again(body):
        body.update(number=2, previous=first.digest.hex())
        body["times"]["issued"] = "2099-01-01T00:00:00Z"
        body["ledger"]["events"] += 5
        body["transcript"]["root"] = "5" * 64

    for change in (again, lambda body: (again(body), body["ledger"].update(branch="b"), cast.reordered(body))):
        one = forged(first, change)
        with pytest.raises(CertificateError, match=r"of number 1|did not sign"):
            checked(one, earlier=[first])
        with pytest.raises(CertificateError, match="of number 1"):
            check_windows([first, one])


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(window="00" * 16),
        lambda body: body["order"].update(opened="2020-01-01T00:00:00Z"),
        lambda body: body["order"].update(continues_after=7),
        lambda body: body["method"].update(name="retrain"),
        lambda body: body["method"]["settings"].update(rate=0.5),
        lambda body: body["asked"].update(hidden_units=1),
        lambda body: body["asked"]["requests"][0]["requester"].update(commitment="00" * 32),
        lambda body: body["asked"]["requests"].clear(),
    ],
)
def test_what_clients_were_told_is_what_is_certified(change):
    """Changed alone it does not fit the order; with an order that fits, it is not the one that clients signed."""
    honest = certificate(batch(request()), missing=(), wiped=CLIENTS)
    is_refused(forged(honest, change), "order is not that")
    is_refused(forged(honest, lambda body: (change(body), cast.reordered(body))), "did not sign")

    def of_another_run(body):
        change(body)
        run_id = body["transcript"]["run_id"]
        cast.reordered(body)
        body["transcript"]["run_id"] = run_id

    is_refused(forged(honest, of_another_run), "that of its order")


def test_words_of_clients_that_were_told_something_else_do_not_serve():
    """They signed for cover under this window's id; the server certifies a request."""
    asked = batch(request("eve"))
    told = cast.order_of(batch(hidden_units=1))
    honest = certificate(asked, missing=(), wiped=CLIENTS)

    def passed_off(body):
        body["wiped"] = [
            {
                "client": name,
                "rounds": 0,
                "commitment": said.commitment.hex(),
                "signature": said.signature.hex(),
            }
            for name in CLIENTS
            for said in [cast.statement(name, asked, order=told, rounds=0)]
        ]

    is_refused(forged(honest, passed_off), "did not sign")
    is_refused(forged(honest, lambda body: body["wiped"][0].update(rounds=5)), "did not sign")


def test_a_client_that_confirmed_without_a_round_is_told():
    asked = batch(request("eve"))
    words = tuple(encode(cast.statement(name, asked, rounds=0 if name == "bob" else 4)) for name in CLIENTS)
    known = cast.execution(asked=asked, missing=())
    one = cast.built(asked, cast.replaced(known, wiped=words))
    (said,) = [sentence for sentence in checked(one).attention if "answered no round" in sentence]
    assert "1 client" in said
    assert "bob" in said
    everybody = certificate(asked, missing=(), wiped=CLIENTS)
    assert not any("answered no round" in sentence for sentence in checked(everybody).attention)


def test_a_window_without_a_round_is_told():
    """What the server could do for a request that it gave to nobody: say that nothing needed to be done."""
    exact = {"kind": "exact", "reason": "nothing to do", "adaptive": False}
    own, words = accounts(story=cast.STORY[:2]), {"wiped": CLIENTS, "missing": ()}
    one = certificate(None, own, rounds=0, transcript_root="3" * 64, parameter_sets=(), guarantee=exact, **words)
    assert any("No round was run" in sentence for sentence in checked(one).attention)
    assert not any("No round was run" in sentence for sentence in checked(certificate()).attention)


def test_an_order_is_there_exactly_where_requests_are_signed():
    honest = certificate()
    is_refused(forged(honest, lambda body: body.update(order=None)), "exactly where")
    is_refused(forged(honest, lambda body: body["asked"].update(signed=False)), "exactly where")


# What a request says itself


def late():
    """40 units, too late: and its certificate says so."""
    asked = request("ada", disclose=True, units=40, submitted=NOW - DAY, deadline=NOW + 10)
    return asked, certificate(batch(asked), accounts(forgotten=("ada",)))


def fewer_units(body):
    body["asked"]["requests"][0]["units"] = body["asked"]["units"] = 1
    body["confidentiality"]["group"] = None


def in_time(body):
    body["asked"]["requests"][0].update(deadline="2030-01-01T00:00:00Z", deadline_met=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (fewer_units, "units is 1, that of the request 40"),
        (in_time, "deadline is 2030"),
        (lambda body: body["asked"]["requests"][0].update(submitted="2020-01-01T00:00:00Z"), "submitted is 2020"),
        (lambda body: body["asked"]["requests"][0].update(client="bob"), "client is bob"),
        (lambda body: body["asked"]["requests"][0].update(request_id="00" * 16), "request_id is 00"),
        (lambda body: body["asked"]["requests"][0].update(scope="client"), "scope is client"),
    ],
)
def test_a_request_that_is_shown_is_held_against_all_that_is_said_of_it(change, words):
    asked, honest = late()
    found = checked(honest, requests=[asked])
    assert any("It names the request" in sentence for sentence in found.proved)
    assert any("after the deadline" in sentence for sentence in found.attention)
    lie = forged(honest, change)
    assert any("the server's word of 1 request" in sentence for sentence in checked(lie).not_checked)
    is_refused(lie, words, requests=[asked])


def test_another_clients_smaller_charges_do_not_count_for_a_request():
    """The review's: ada's request, certified as about eve, who was away in two rounds and paid less."""
    asked = request("ada", disclose=True)
    smaller = accounts(forgotten=("eve",))
    mine = certificate(batch(asked), accounts(forgotten=("ada",)))
    lie = forged(mine, lambda body: (body["asked"]["requests"][0].update(client="eve"), recounted(body, smaller)))
    assert lie.body["confidentiality"]["pair"]["value"] < mine.body["confidentiality"]["pair"]["value"] - 0.5
    is_refused(lie, "client is eve", requests=[asked])


def recounted(body, own):
    body["accounting"]["rounds"] = own.to_json()
    again(body)


def again(body, delta=None):
    """Every stated figure follows from the charges again."""
    own = accounts_of(body)
    delta = body["accounting"]["delta"] if delta is None else delta
    body["accounting"]["delta"] = delta
    for group in (body["confidentiality"], body["confidentiality"]["group"]):
        if group is not None:
            size = group["phase"]["group_size"]
            for name, value in own.confidentiality(delta=delta, group_size=size).items():
                group[name] = {"value": value, "delta": delta, "group_size": size}
    for entry in body["epsilon"]:
        value = own.epsilon(Subject(entry["subject"]), Phase(entry["phase"]), delta=delta, group_size=1)
        entry.update(value=value, delta=delta)


def test_a_missed_deadline_is_not_said_to_be_met():
    _, honest = late()
    is_refused(forged(honest, lambda body: body["asked"]["requests"][0].update(deadline_met=True)), "was met")


def test_of_a_hidden_request_nothing_is_told_and_of_a_named_one_all():
    hidden, named = certificate(), late()[1]
    for honest, changes in (
        (hidden, {"units": 1}),
        (hidden, {"client": "bob"}),
        (hidden, {"request_id": "00" * 16}),
        (named, {"units": None}),
        (named, {"deadline": None}),
    ):
        lie = forged(honest, lambda body, said=changes: body["asked"]["requests"][0].update(said))
        is_refused(lie, "tells all")


def test_units_of_a_hidden_request_count_as_soon_as_it_is_shown():
    asked = request("ada", units=30)
    honest = certificate(batch(asked, hidden_units=2))
    lie = forged(honest, fewer_hidden)
    is_refused(lie, "order is not that")

    def fewer(body):
        body["asked"]["units"] = 3
        body["confidentiality"]["group"] = None if body["asked"]["units"] == 1 else body["confidentiality"]["group"]
        for one in body["confidentiality"]["group"].values():
            one["group_size"] = 3
        again(body)

    lie = forged(honest, fewer)
    said = checked(lie)
    assert any("hidden units are counted at 1 clients" in sentence for sentence in said.attention)
    assert any("the server's word of 1 request" in sentence for sentence in said.not_checked)
    is_refused(lie, "at least 32", requests=[asked])
    assert not any("are counted at" in sentence for sentence in checked(honest, requests=[asked]).attention)


def fewer_hidden(body):
    body["asked"].update(hidden_units=0, units=1)
    body["confidentiality"]["group"] = None


def test_whether_a_signer_may_ask_is_told_or_held_against_the_policy():
    asked = sign_request(
        cast.identities()["bob"],
        DeletionRequest.person("p1"),
        roster=roster(),
        units=1,
        submitted=NOW - DAY,
        deadline=NOW + DAY,
        disclose=True,
    )
    one = certificate(batch(asked))
    assert any("--deletion-policy" in sentence for sentence in checked(one, requests=[asked]).not_checked)
    own = request("ada")
    assert not any("--deletion" in said for said in checked(certificate(batch(own)), requests=[own]).not_checked)
    terms = {
        "window_start": NOW - 10 * DAY,
        "window_seconds": DAY,
        "method": "scrub",
        "settings": {"rate": 0.25, "rounds": 4},
    }
    may = DeletionPolicy(**terms, class_signers=("bob",))
    assert any("lets those who signed" in said for said in checked(one, requests=[asked], deletion_policy=may).proved)
    is_refused(one, "may not ask", requests=[asked], deletion_policy=DeletionPolicy(**terms))
    for changes, words in (
        ({"method": "retrain"}, "method"),
        ({"settings": {"rate": 0.25, "rounds": 5}}, "method"),
        ({"settings": {"rate": 0.5, "rounds": 4}}, "method"),
        ({"settings": {"rounds": 4}}, "method"),  # a setting that it does not list could be any
        ({"settings": {"decay": 99, "rate": 0.25, "rounds": 4}}, "method"),
        ({"window_start": NOW - DAY + 60}, "was due"),
        ({"minimum_batch": 2}, "2 to 1000"),
    ):
        is_refused(one, words, deletion_policy=DeletionPolicy(**terms | changes))
    hidden = certificate(batch(request(), hidden_units=2))
    is_refused(hidden, "hidden units", deletion_policy=DeletionPolicy(**terms, hidden_units=1))


# Who is in neither list


def test_clients_that_are_not_spoken_of_are_told_and_one_that_is_concerned_is_refused():
    asked, honest = late()

    def cut(body):
        body["wiped"], body["unconfirmed"] = body["wiped"][:1], []

    assert not any("neither list" in sentence for sentence in checked(honest).attention)
    (said,) = [one for one in checked(forged(honest, cut), requests=[asked]).attention if "neither list" in one]
    assert said.startswith("2 clients of the roster are")
    assert "bob, eve" in said

    def without(body):
        body["wiped"] = [one for one in body["wiped"] if one["client"] != "ada"]

    is_refused(forged(honest, without), "'ada' was to forget something")


# What policy, transcript and ledger contradict


class Story:
    """A federation that scrubs once, and all its files."""

    def __init__(self, directory):
        with federation(
            directory=directory,
            scheme_name="plain",
            rounds=2,
            resumable=True,
            plan=plan_for(mlp(5, (), 3, 0), rounds=2, branch_rounds=8),
        ) as made:
            made.train(rounds=1)
            self.honest, _ = cast.executed(
                made, directory, DeletionRequest.some_records("silo-1", (0,)), Scrub(length=1), adaptive=True
            )
            made.train()
            self.roster, self.policy = made.roster, made.policy
        self.identity = cast.server_of(directory)
        self.directory = directory

    def check(self, change):
        with PrivacyLedger.open(self.directory / "ledger.sqlite", read_only=True) as ledger:
            return check_certificate(
                forged(self.honest, change, self.identity),
                roster=self.roster,
                evidence=Evidence(policy=self.policy, transcript=self.directory / "transcript.jsonl", ledger=ledger),
            )


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    return Story(tmp_path_factory.mktemp("story"))


def test_the_models_before_and_after_are_shown(story):
    proved = " ".join(story.check(lambda body: None).proved)
    assert "computed on the model before" in proved
    assert "Training went on from the very model after" in proved


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body["accounting"].update(unit="client"), "unit is client"),
        (lambda body: again(body, delta=0.3), "delta is 0.3"),
        (lambda body: body["method"].update(name="negation"), "were for unlearn/scrub"),
        (lambda body: body["parameter_sets"].insert(0, "kahe-8192"), "encrypted under"),
        (lambda body: body["model"].update(before="1" * 64), "began with model"),
        (lambda body: body["model"].update(after="2" * 64), "training went on from"),
    ],
)
def test_what_the_files_contradict_is_refused(story, change, words):
    with pytest.raises(CertificateError, match=words):
        story.check(change)


def test_the_unit_is_that_of_the_rounds_also_without_a_policy(story):
    lie = forged(story.honest, lambda body: body["accounting"].update(unit="client"), story.identity)
    evidence = Evidence(transcript=story.directory / "transcript.jsonl")
    with pytest.raises(CertificateError, match="that of its rounds record"):
        check_certificate(lie, roster=story.roster, evidence=evidence)


def test_rounds_of_the_deletion_come_after_earlier_windows(story):
    """An earlier certificate that names a root further on: it cannot have been before."""
    lines = (story.directory / "transcript.jsonl").read_text().splitlines()
    from secure_fu.deletion.certificates.evidence import against_transcript

    terms = {"roster": story.roster, "policy": story.policy}
    root = story.honest.body["transcript"]["root"]
    assert len(lines) > 2
    against_transcript(story.honest.body, story.directory / "transcript.jsonl", earlier=["ab" * 32], **terms)
    with pytest.raises(CertificateError, match="before the end of an earlier one"):
        against_transcript(story.honest.body, story.directory / "transcript.jsonl", earlier=[root], **terms)


def test_with_no_round_in_between_the_model_is_that_of_the_certificate_before():
    first, _, _ = first_and_second()
    root, after = first.body["transcript"]["root"], first.body["model"]["after"]
    _, second, _ = first_and_second(transcript_before=root, model_before=after)
    assert second.body["model"]["before"] == after
    lie = forged(second, lambda body: body["model"].update(before="9" * 64))
    first_of = {"earlier": [first]}
    is_refused(forged(lie, lambda body: body.update(previous=first.digest.hex())), "what came out there", **first_of)
