"""Checking a certificate from outside: what it proves, what was not looked at, and what no certificate can prove."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from secure_fu.crypto import Roster
from secure_fu.deletion.certificates.accounts import Part
from secure_fu.deletion.certificates.certificate import START, Certificate
from secure_fu.deletion.certificates.clients import said_of_clients, said_of_rounds
from secure_fu.deletion.certificates.evidence import (
    against_ledger,
    against_transcript,
    check_chain,
    check_windows,
    model_digests,
)
from secure_fu.deletion.certificates.figures import Figure, accounts_of, check_figures, named_clients
from secure_fu.deletion.certificates.order import check_asked, check_order, check_requests, check_terms, check_wiped
from secure_fu.deletion.certificates.schema import CertificateError
from secure_fu.deletion.policy import DeletionPolicy
from secure_fu.deletion.requests import SignedRequest
from secure_fu.privacy import PrivacyLedger
from secure_fu.protocol import Policy

__all__ = ["Evidence", "Findings", "check_certificate"]

_LARGE: Final = 10.0
_NEVER: Final = (
    "That a sum the server released is the true sum of the uploads: the server can add to it.",
    "That a client really destroyed its records: that is its signed word, and no more.",
    "That the server destroyed its copies of earlier models, sums and checkpoints, or that nobody else kept one.",
    "That clients bounded and noised what they sent, and left out what they were to forget: they checked the rounds, "
    "and nobody can check them.",
    "That every release of the federation is in the transcript that was shown, and that there is no other certificate "
    "for the same window.",
    "When things happened: times are those of the server's clock.",
)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a certificate is checked with, beside the roster; all of it optional.

    Attributes:
        policy: pinned by whoever checks.
        transcript: path of the transcript; it may go on after the deletion.
        begins_later: whether the transcript may begin after some of the rounds that are charged, for the roster was
            changed since.
        ledger: the server's, opened for reading.
        model_before, model_after: files of the released parameters.
        earlier: the certificates before this one, oldest first, at best from the first on.
        audit: content of the audit.json that it speaks of.
        requests: signed requests that it is to name.
        deletion_policy: when windows are due, for what, and who may ask; pinned by whoever checks.
    """

    policy: Policy | None = None
    transcript: Path | None = None
    begins_later: bool = False
    ledger: PrivacyLedger | None = None
    model_before: Path | None = None
    model_after: Path | None = None
    earlier: Sequence[Certificate] = ()
    audit: bytes | None = None
    requests: Sequence[SignedRequest] = ()
    deletion_policy: DeletionPolicy | None = None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a check has shown; every sentence is in plain words.

    Attributes:
        proved: what holds, as far as signatures and arithmetic go.
        attention: what holds and should be known before anything is concluded from it.
        not_checked: what could be checked with more files.
        not_proved: what no certificate can prove.
        figures: each epsilon, as stated and as recomputed.
    """

    proved: tuple[str, ...]
    attention: tuple[str, ...]
    not_checked: tuple[str, ...]
    not_proved: tuple[str, ...]
    figures: tuple[Figure, ...]

    def to_json(self) -> dict[str, Any]:
        """The findings as `secure-fu verify --json` prints them."""
        return {
            "proved": list(self.proved),
            "attention": list(self.attention),
            "not_checked": list(self.not_checked),
            "not_proved": list(self.not_proved),
            "figures": [
                {"figure": title, "stated": stated, "recomputed": value} for title, stated, value in self.figures
            ],
        }


def check_certificate(certificate: Certificate, *, roster: Roster, evidence: Evidence | None = None) -> Findings:
    """Check a certificate against a roster, its own charges, and whatever evidence there is.

    Formal guarantees:
        On return the roster's server signed exactly this text; no epsilon in it is smaller than the library's
        accountant gives for the charges that it lists; every confirmation was signed by the client that it names for
        this window and its order, and the run of its rounds is the one that this order names. With a transcript, its
        root is a release of it and the charges are those of the headers for the clients that took part, no more and no
        fewer. With a ledger, the same for the ledger. Offline throughout.
    Not guaranteed:
        See :attr:`Findings.not_proved`.

    Args:
        certificate: read by :func:`secure_fu.deletion.certificates.read_certificate`.
        roster: pinned by whoever checks, not taken from the server.
        evidence: further files.

    Raises:
        CertificateError, TranscriptError: something does not hold; says what.
        ArgumentError: a file of a model is none.
    """
    shown = Evidence() if evidence is None else evidence
    body = certificate.body
    certificate.check_signature(roster)
    found = check_figures(body)
    check_asked(body)
    check_order(body)
    check_wiped(body, roster)
    proved = [
        f"The server {certificate.signer!r} of the given roster signed exactly this text; not one letter was changed.",
        "Every epsilon follows from the charges that the certificate lists: they were added up again here, with this "
        "library's accountant.",
    ]
    not_checked: list[str] = []
    if body["order"] is not None:
        proved.append(
            "Its run is named by the order of this very window: id, due time, method, settings, requests, hidden units."
        )
    attention = _attention(body)
    _policy(body, shown, proved, not_checked)
    _chain(certificate, shown, roster, proved, not_checked)
    _transcript(body, shown, roster, proved, not_checked, attention)
    _models(body, shown, proved, not_checked)
    _audit(body, shown, proved, not_checked)
    _requests(body, shown, roster, proved, not_checked)
    if body["wiped"]:
        proved.append(
            f"{_count(len(body['wiped']), 'client')} signed, for this very order, that what it covers at them is "
            "destroyed. Every client signs that, also one that had nothing to destroy."
        )
    return Findings(
        proved=tuple(proved),
        attention=(*attention, *said_of_clients(body, roster, shown.earlier)),
        not_checked=tuple(not_checked),
        not_proved=(*_own_words(body), *_NEVER),
        figures=found,
    )


def _policy(body: Mapping[str, Any], shown: Evidence, proved: list[str], not_checked: list[str]) -> None:
    if shown.policy is None:
        not_checked.append("That the federation kept to the policy that was agreed: give yours (--policy).")
        return
    if shown.policy.digest.hex() != body["policy"]:
        raise CertificateError(f"it is under policy {body['policy']}, not the one given, {shown.policy.digest.hex()}")
    if body["accounting"]["unit"] != shown.policy.unit.value:
        raise CertificateError(
            f"its unit is {body['accounting']['unit']}, that of the policy {shown.policy.unit.value}"
        )
    if body["accounting"]["delta"] != shown.policy.budget.delta:
        raise CertificateError(
            f"its delta is {body['accounting']['delta']:g}, that of the policy {shown.policy.budget.delta:g}"
        )
    proved.append("It names the very policy that it was checked with; unit and delta are those of the policy.")


def _chain(
    certificate: Certificate, shown: Evidence, roster: Roster, proved: list[str], not_checked: list[str]
) -> None:
    body = certificate.body
    chain = [*shown.earlier, certificate]
    old = 0
    for earlier in shown.earlier:
        if earlier.body["roster"] == body["roster"]:
            earlier.check_signature(roster)
        else:
            old += 1  # what was signed with the keys before is held by the hashes alone
    for place, one in enumerate(chain):
        if place or (one.body["number"], one.body["previous"]) == (1, START):
            check_chain(one, chain[place - 1] if place else None)
    check_windows(chain)
    if old:
        not_checked.append(f"The signatures of {_count(old, 'certificate')} before it, which another roster checks.")
    if chain[0].body["number"] == 1:
        check_chain(chain[0], None)
        others = "it is the first one" if len(chain) == 1 else f"with the {len(chain) - 1} before it, back to the first"
        proved.append(f"It is number {body['number']} in the chain of this server's certificates: {others}.")
    elif len(chain) > 1:
        proved.append(
            f"It follows the certificate before it; the chain was checked back to number {chain[0].body['number']}."
        )
        not_checked.append("The certificates before that: give their folder (--chain).")
    else:
        not_checked.append(
            f"That it follows the certificate before it, number {body['number'] - 1}: give their folder (--chain)."
        )


def _transcript(
    body: Mapping[str, Any],
    shown: Evidence,
    roster: Roster,
    proved: list[str],
    not_checked: list[str],
    attention: list[str],
) -> None:
    branches = None
    if shown.transcript is None:
        not_checked.append(
            "That the charges are those of the rounds that were really run: give the transcript (--transcript), where "
            "every client of every sum has signed."
        )
    else:
        seen = against_transcript(
            body,
            shown.transcript,
            roster=roster,
            policy=shown.policy,
            begins_later=shown.begins_later,
            earlier=[one.body["transcript"]["root"] for one in shown.earlier],
        )
        branches = seen.branches
        under = " Every round keeps to that policy." if shown.policy is not None else ""
        charges = (
            "the charges are those of the signed headers for those who took part, no more and no fewer"
            if seen.whole
            else "the charges of these rounds are those of the signed headers for those who took part"
        )
        proved.append(
            f"Its transcript root is a release of the transcript, {_count(seen.rounds, 'round')} of the deletion after "
            "the one that it names. Every client in each sum signed its own upload, those who open signed for exactly "
            f"that list, and {charges}.{under}"
        )
        if not seen.whole:
            not_checked.append(
                "The rounds that are charged and came before this transcript begins: they are in that of the roster "
                "before. More is charged than the transcript shows, not less. Nor which model a re-run began with."
            )
        if seen.start_shown:
            proved.append(
                "The deletion's first round computed on the very model that the guarantee of forgetting rests on: the "
                "signed headers name the same hash."
            )
        if seen.before_shown:
            proved.append("Its first round computed on the model before: the signed header names the same hash.")
        attention += said_of_rounds(body, seen.answered)
        if seen.after_shown:
            proved.append(
                "Training went on from the very model after: the next round's signed header names the same hash."
            )
        if seen.later:
            proved.append(
                f"The transcript goes on after it, by {_count(seen.later, 'release')}, which it does not speak of."
            )
    if shown.ledger is None:
        not_checked.append("That the server's ledger has the same charges: give it (--ledger).")
    else:
        unreleased = against_ledger(body, shown.ledger, branches)
        more = (
            "" if not unreleased else f" It has {_count(unreleased, 'charged round')} without a release in this file."
        )
        proved.append(
            f"The server's ledger, up to its event {body['ledger']['events']}, has charged exactly that. Nobody signs "
            f"the ledger: this shows that the server's files agree.{more}"
        )


def _models(body: Mapping[str, Any], shown: Evidence, proved: list[str], not_checked: list[str]) -> None:
    for name, path in (("before", shown.model_before), ("after", shown.model_after)):
        if path is None:
            not_checked.append(f"Which model is the one {name}: give its file (--model-{name}).")
        elif body["model"][name] not in model_digests(path):
            raise CertificateError(f"the model in {path} is not the one {name}, {body['model'][name]}")
        else:
            proved.append(f"The model in {path} is the one {name}.")


def _audit(body: Mapping[str, Any], shown: Evidence, proved: list[str], not_checked: list[str]) -> None:
    if body["audit"] is None:
        if shown.audit is not None:
            raise CertificateError("it says that no audit was run, and an audit was given")
        return
    if shown.audit is None:
        not_checked.append("That the audit says what is quoted from it: give its audit.json (--audit).")
    elif hashlib.sha256(shown.audit).hexdigest() != body["audit"]["sha256"]:
        raise CertificateError("the audit that was given is not the one that it speaks of")
    else:
        proved.append("The audit that it was checked with is the one that it speaks of.")


def _requests(
    body: Mapping[str, Any], shown: Evidence, roster: Roster, proved: list[str], not_checked: list[str]
) -> None:
    check_requests(body, shown.requests, roster=roster, policy=shown.deletion_policy)
    for request in shown.requests:
        proved.append(
            f"It names the request {request.request_id.hex()}, which {request.signer!r} signed, and says of it what it "
            "asks, and whether its deadline was met."
        )
    others = sorted({one.signer for one in shown.requests if one.client != one.signer})
    if shown.deletion_policy is not None:
        check_terms(body, shown.deletion_policy)
        proved.append(
            "The deletion policy has such a window: its method, due at that time, with so many requests and hidden "
            + ("units, and lets those who signed the requests given ask for that." if shown.requests else "units.")
        )
    elif others:
        not_checked.append(
            f"Whether {', '.join(others)} may ask for what other clients hold: give the deletion policy "
            "(--deletion-policy)."
        )
    waiting = len(body["asked"]["requests"]) - len({one.digest for one in shown.requests})
    if body["asked"]["signed"] and waiting > 0:
        not_checked.append(
            "That those who are said to have asked did, for how many units, and until when: it is the server's word of "
            f"{_count(waiting, 'request')}; give the signed requests (--request)."
        )


def _attention(body: Mapping[str, Any]) -> list[str]:
    """What a reader should know before concluding anything."""
    found = []
    if body["order"] is not None and body["times"]["started"] < body["order"]["opened"]:
        found.append("It says that it began before its window was due.")
    if not body["asked"]["signed"]:
        found.append("The requests were not signed by anybody: they were made within the server's own program.")
    late = sum(one["deadline_met"] is False for one in body["asked"]["requests"])
    if late:
        found.append(f"{_count(late, 'request')} ended after the deadline.")
    found += _weak(body)
    if body["audit"] is None:
        found.append("No audit was run: nothing was measured of how well the data is forgotten.")
    elif body["audit"]["outcome"] in ("leak", "invalid"):
        found.append(f"The audit's answer is: {body['audit']['outcome']}.")
    if body["audit"] is not None and body["audit"]["insecure"]:
        found.append("What was audited protects nobody: " + "; ".join(body["audit"]["insecure"]))
    if any(name.startswith("plain") for name in body["parameter_sets"]):
        found.append("INSECURE: uploads were not encrypted; whoever saw them knows every contribution.")
    return found


def _weak(body: Mapping[str, Any]) -> list[str]:
    """Of the numbers: those that promise little, and charges beside the line."""
    found = []
    guarantee, accounts = body["forgetting"], accounts_of(body)
    if guarantee["kind"] in ("heuristic", "baseline"):
        found.append(
            "There is no proof that the data is forgotten: the method steers the model, and only an audit speaks."
        )
    if guarantee["kind"] == "certified" and guarantee["epsilon"] is None:
        found.append("The certified epsilon of forgetting is unbounded: it guarantees nothing.")
    if guarantee["kind"] == "certified" and (guarantee["epsilon"] or 0.0) > _LARGE:
        found.append(
            f"The certified epsilon of forgetting, {guarantee['epsilon']:.1f}, is so large that it says little."
        )
    if any(body["confidentiality"][name]["value"] is None for name in ("phase", "pair", "who_asked")):
        found.append("A figure of confidentiality is unbounded: the deletion itself may show whom it forgot.")
    beside = accounts.rounds(part=Part.BESIDE)
    if beside and body["order"] is not None:
        found.append(
            f"{_count(beside, 'round')} ran in windows that were given up or begun anew. They were released: they add "
            "to every epsilon here, but for that of forgetting where it counts everything."
        )
    elif beside:
        found.append(
            f"{_count(beside, 'round')} ran in branches that were tried out beside: publishing what came out adds to "
            "every epsilon here."
        )
    unreleased = sum(accounts.rounds(part=part, released=False) for part in Part)
    if unreleased:
        found.append(f"{_count(unreleased, 'round')} without a release are counted as spent: a server was interrupted.")
    units = body["asked"]["units"]
    if units > 1 and body["accounting"]["unit"] == "record":
        found.append(f"Figures are of one record; the {units} records together are less hidden than each of them.")
    return found


def _own_words(body: Mapping[str, Any]) -> list[str]:
    """What only the server's word is behind, in this certificate."""
    found = [
        "That the model after is what the method makes of the released sums: it could be computed again from those "
        "sums, which are not kept.",
        "That the request and the settings were chosen "
        + (
            "late, or not: it counts as if they were."
            if body["forgetting"]["adaptive"]
            else "without having seen models."
        ),
    ]
    if body["forgetting"]["kind"] == "exact" and named_clients(body) is None:
        found.append(
            "That the units had paid for nothing that the guarantee rests on: whose they are is hidden, and so is this."
        )
    if body["forgetting"]["shift"] is not None:
        found.append(
            "The bound on the distance to the model without the data, which the server measured on released sums."
        )
    if body["audit"] is not None:
        found.append("An audit is of the procedure, over runs made for it, and not of this very model.")
    return found


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
