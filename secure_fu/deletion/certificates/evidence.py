"""What a certificate is held against: the transcript, the ledger, the models, the certificate before."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from secure_fu.crypto import Roster
from secure_fu.deletion.certificates.accounts import Accounts, RoundKind, ledger_rounds, part_of
from secure_fu.deletion.certificates.certificate import START, Certificate
from secure_fu.deletion.certificates.figures import accounts_of, named_clients
from secure_fu.deletion.certificates.schema import CertificateError
from secure_fu.errors import ArgumentError
from secure_fu.privacy import Phase, PrivacyLedger, Subject
from secure_fu.protocol import Policy, VerifiedBranch, verify_transcript
from secure_fu.protocol.verification import VerifiedRelease, verify_against_ledger

__all__ = [
    "TranscriptEvidence",
    "against_ledger",
    "against_transcript",
    "check_chain",
    "check_windows",
    "model_digests",
]

_MOST_MODEL_BYTES: Final = 8 << 30


@dataclass(frozen=True, kw_only=True)
class TranscriptEvidence:
    """What a transcript shows of a certificate.

    Attributes:
        branches: as verified.
        rounds: of the deletion.
        later: releases in the file that come after the deletion.
        start_shown: whether it shows which model the deletion's first round computed on, and that this is the one that
            the certificate's guarantee rests on; None where no later round was computed on it.
        before_shown: whether it shows that the deletion began with the model before.
        after_shown: whether it shows that training went on from the model after.
        answered: by client, how many sums of the deletion it is in.
        whole: whether it has all rounds that were charged; otherwise it begins after some of them.
    """

    branches: tuple[VerifiedBranch, ...]
    rounds: int
    later: int
    start_shown: bool | None
    before_shown: bool
    after_shown: bool
    answered: Mapping[str, int]
    whole: bool


@dataclass(frozen=True, kw_only=True)
class _Line:
    release: VerifiedRelease
    branch: str
    run_id: str


def against_transcript(
    body: Mapping[str, Any],
    path: Path,
    *,
    roster: Roster,
    policy: Policy | None,
    begins_later: bool = False,
    earlier: Collection[str] = (),
) -> TranscriptEvidence:
    """Check a certificate against a transcript: its root, its rounds, and that it charges what their headers charge.

    Args:
        body: of the certificate, checked as far as it goes alone.
        path: of the transcript; it may go on after the deletion.
        begins_later: whether it may begin after some of the rounds that are charged, as it does where the roster was
            changed since. More may then be charged than it shows, but for the deletion's own rounds.
        earlier: roots of the certificates before it; those that are in the file come before the deletion's rounds.

    Raises:
        TranscriptError: the transcript itself does not hold.
        CertificateError: it does not fit the certificate.
    """
    branches = verify_transcript(path, roster=roster, policy=policy)
    lines = _lines(branches)
    said, branch = body["transcript"], body["ledger"]["branch"]
    places = {line.release.link: place for place, line in enumerate(lines)}
    root: str = said["root"]
    if root != START and root not in places:
        raise CertificateError(f"its transcript root, {root}, is no release of {path}")
    until = places[root] + 1 if root != START else 0
    chain = _chain(root, lines, places)
    own = [line for line in chain if line.branch == branch and line.release.phase is Phase.UNLEARNING]
    before = own[0].release.previous if own else root
    if before != said["before"] or len(own) != said["rounds"]:
        raise CertificateError(
            f"the transcript has {len(own)} rounds of the deletion, after release {before}; the certificate says "
            f"{said['rounds']}, after {said['before']}"
        )
    _check_own(body, own, lines)
    if own and any(places.get(link, -1) >= places[own[0].release.link] for link in earlier):
        raise CertificateError("rounds of the deletion come before the end of an earlier one that has a certificate")
    basis = [(entry["branch"], entry["last_round"]) for entry in body["accounting"]["basis"]]
    line_branches = {line.branch for line in chain}
    rounds = [
        (
            RoundKind(
                part=part_of(
                    line.branch,
                    line.release.round_number,
                    line.release.phase,
                    branch=branch,
                    line=line_branches,
                    basis=basis,
                ),
                phase=line.release.phase,
                released=True,
                forgotten=line.release.charges[Subject.FORGOTTEN],
                retained=line.release.charges[Subject.RETAINED],
            ),
            line.release.participants,
        )
        for line in lines[:until]
    ]
    units = {line.release.unit for line in lines[:until]}
    if not units <= {body["accounting"]["unit"]}:
        raise CertificateError(
            f"its unit is {body['accounting']['unit']}, that of its rounds {', '.join(sorted(units))}"
        )
    everybody = {name for _, charged in rounds for name in charged}
    if not everybody:
        raise CertificateError(f"{path} holds no release up to its transcript root")
    found = Accounts.of(rounds, forgotten=named_clients(body) or everybody, retained=everybody)
    charged = accounts_of(body).released
    difference = charged.difference(found)
    whole = difference is None
    if begins_later and charged.covers(found):
        difference = charged.own.difference(found.own)
    if difference is not None:
        raise CertificateError(f"it charges other rounds than its transcript shows: {difference}")
    return TranscriptEvidence(
        branches=branches,
        rounds=len(own),
        later=len(lines) - until,
        start_shown=_start_shown(body, chain, own, basis) if whole else None,
        before_shown=_before_shown(body, chain, own, basis),
        after_shown=_after_shown(body, lines[until:]),
        answered=Counter(name for line in own for name in line.release.participants),
        whole=whole,
    )


def _lines(branches: Sequence[VerifiedBranch]) -> list[_Line]:
    """The verified lines, in the order of the file."""
    found = [
        _Line(release=release, branch=branch.name, run_id=branch.run_id.hex())
        for branch in branches
        for release in branch.releases
    ]
    return sorted(found, key=lambda line: line.release.line)


def _chain(root: str, lines: Sequence[_Line], places: Mapping[str, int]) -> list[_Line]:
    """The releases behind a root, oldest first."""
    chain: list[_Line] = []
    link = root
    while link != START:
        line = lines[places[link]]
        chain.append(line)
        link = line.release.previous
    return chain[::-1]


def _check_own(body: Mapping[str, Any], own: Sequence[_Line], lines: Sequence[_Line]) -> None:
    """The deletion's rounds are those of its run, all of them, by its method, under its parameter sets."""
    run_id, method = body["transcript"]["run_id"], body["method"]["name"]
    if any(line.run_id != run_id for line in own):
        raise CertificateError(f"the transcript's rounds of the deletion are of run {own[0].run_id}, not {run_id}")
    there = sum(line.run_id == run_id and line.release.phase is Phase.UNLEARNING for line in lines)
    if there != len(own):
        raise CertificateError(f"its run has {there} rounds of a deletion, and {len(own)} are behind its root")
    purposes = {line.release.purpose for line in own}
    if not purposes <= {f"unlearn/{method}"}:
        raise CertificateError(f"its method is {method}, and its rounds were for {', '.join(sorted(purposes))}")
    sets = sorted({line.release.parameter_set for line in own})
    if sets != body["parameter_sets"]:
        raise CertificateError(
            f"rounds of the deletion were encrypted under {', '.join(sets) or 'nothing'}; it says "
            f"{', '.join(body['parameter_sets']) or 'nothing'}"
        )


def _before_shown(
    body: Mapping[str, Any], chain: Sequence[_Line], own: Sequence[_Line], basis: Sequence[tuple[str, int]]
) -> bool:
    """Whether the deletion's first round computed on the model before, for it went on from the newest state."""
    earlier = chain[: len(chain) - len(own)]
    if not own or not earlier or not basis:
        return False
    if (earlier[-1].branch, earlier[-1].release.round_number) != basis[-1]:
        return False  # a re-run: it began with an older model
    if own[0].release.model != body["model"]["before"]:
        raise CertificateError(
            f"the deletion began with model {own[0].release.model}; the certificate says that "
            f"{body['model']['before']} was the one before"
        )
    return True


def _start_shown(
    body: Mapping[str, Any], chain: Sequence[_Line], own: Sequence[_Line], basis: Sequence[tuple[str, int]]
) -> bool | None:
    """Whether the model that a re-run began with is the one that stands behind its guarantee.

    Every header names the hash of the model that its round computes on. A state is told by the round that went on from
    it, or it is the newest before the deletion.
    """
    guarantee = body["forgetting"]
    if guarantee["kind"] != "exact" and guarantee["counted"] != "basis":
        return None
    earlier = chain[: len(chain) - len(own)]
    ends = {(line.branch, line.release.round_number) for line in earlier}
    for branch, last in basis:
        if (branch, last) not in ends:
            raise CertificateError(
                f"its guarantee rests on round {last} of branch {branch!r}, which is not on its line"
            )
    behind = [line for line in earlier if not basis or line.branch == basis[-1][0]]
    following = next((line for line in behind if not basis or line.release.round_number > basis[-1][1]), None)
    if following is None:
        if not basis or (earlier[-1].branch, earlier[-1].release.round_number) != basis[-1]:
            raise CertificateError("its guarantee rests on a model that its transcript does not show")
        return None if own else True
    began = own[0].release.model if own else body["model"]["after"]
    if following.release.model != began:
        raise CertificateError(
            f"its re-run began with model {began}; the one that its guarantee rests on is {following.release.model}"
        )
    return True


def _after_shown(body: Mapping[str, Any], later: Sequence[_Line]) -> bool:
    """Whether training went on from the model after, by the header of its next round."""
    for line in later:
        if line.branch == body["ledger"]["branch"] and line.release.previous == body["transcript"]["root"]:
            if line.release.model != body["model"]["after"]:
                raise CertificateError(
                    f"training went on from model {line.release.model}; the certificate says that "
                    f"{body['model']['after']} came out"
                )
            return True
    return False


def against_ledger(
    body: Mapping[str, Any], ledger: PrivacyLedger, branches: Sequence[VerifiedBranch] | None
) -> int | None:
    """Check that the server's ledger charges what the certificate says, up to its position.

    Args:
        branches: of the verified transcript, to hold the ledger against it as well; None where there is none.

    Returns:
        the number of charged rounds without a release, where there is a transcript.

    Raises:
        CertificateError: the ledger tells otherwise.
        TranscriptError: ledger and transcript do not agree.
    """
    position = body["ledger"]["events"]
    basis = [(entry["branch"], entry["last_round"]) for entry in body["accounting"]["basis"]]
    try:
        rounds = list(ledger_rounds(ledger, body["ledger"]["branch"], basis=basis, until=position))
    except ArgumentError as error:
        raise CertificateError(f"its ledger branch is not in the ledger: {error}") from None
    newest = max((event.event_id for event in ledger.events()), default=0)
    if newest < position:
        raise CertificateError(f"its ledger position is {position}, and the ledger has {newest} events")
    everybody = {name for _, charged in rounds for name in charged}
    if not everybody:
        raise CertificateError("the ledger has charged nothing up to its position")
    known = {(event.branch, event.round_number) for event in ledger.events() if event.event_id <= position}
    if not known.issuperset(basis):
        raise CertificateError("its guarantee rests on rounds that are not in the ledger")
    found = Accounts.of(rounds, forgotten=named_clients(body) or everybody, retained=everybody)
    # Which of them were released, the transcript shows.
    difference = accounts_of(body).charged.difference(found.charged)
    if difference is not None:
        raise CertificateError(f"it charges other rounds than the ledger: {difference}")
    return None if branches is None else verify_against_ledger(branches, ledger)


def check_chain(certificate: Certificate, previous: Certificate | None) -> None:
    """Return only if a certificate follows another, or is the first.

    Raises:
        CertificateError: it does not follow.
    """
    body = certificate.body
    if previous is None:
        if (body["number"], body["previous"]) != (1, START):
            raise CertificateError(f"it is number {body['number']} and follows another; only the first follows none")
        return
    before = previous.body
    if body["previous"] != previous.digest.hex() or body["number"] != before["number"] + 1:
        raise CertificateError(
            f"it is number {body['number']} and follows {body['previous']}, not number {before['number']}, "
            f"{previous.digest.hex()}"
        )
    if body["ledger"]["events"] < before["ledger"]["events"]:
        raise CertificateError("its ledger position is before that of the certificate before it")
    if body["times"]["finished"] < before["times"]["finished"]:
        raise CertificateError("it ended before the certificate before it")
    if (
        body["transcript"]["before"] == before["transcript"]["root"]
        and body["model"]["before"] != before["model"]["after"]
    ):
        raise CertificateError(
            "no round lies between it and the one before it, and its model is not what came out there"
        )


def check_windows(chain: Sequence[Certificate]) -> None:
    """Return only if each window of a chain is its own: no two share its id, its run, its branch or its rounds.

    Args:
        chain: in order.

    Raises:
        CertificateError: names the certificate, and what it shares with an earlier one.
    """
    seen: dict[tuple[str, str], int] = {}
    events = 0
    for one in chain:
        body, number = one.body, one.body["number"]
        transcript = body["transcript"]
        own = {("window", body["window"]), ("ledger branch", body["ledger"]["branch"])}
        if transcript["rounds"] or body["order"] is not None:
            own.add(("run", transcript["run_id"]))
        if transcript["rounds"]:
            own.add(("transcript root", transcript["root"]))
            if body["ledger"]["events"] <= events:
                raise CertificateError(
                    f"number {number} has rounds, and its ledger position is no later than before them"
                )
        for what, value in sorted(own):
            if (what, value) in seen:
                raise CertificateError(f"number {number} has the {what} of number {seen[what, value]}, {value}")
        seen |= dict.fromkeys({*own, ("transcript root", transcript["root"])}, number)
        seen.setdefault(("transcript root", transcript["before"]), number)
        events = max(events, body["ledger"]["events"])


def model_digests(path: Path) -> frozenset[str]:
    """SHA-256 of a model's parameters, for each order in which a file's tensors may have to be put together.

    A checkpoint holds the vector itself. A file of layers does not say how they follow one another; a hash that fits
    shows that the order was right.

    Raises:
        ArgumentError: the file is no model.
    """
    try:
        if path.stat().st_size > _MOST_MODEL_BYTES:
            raise ValueError("it is too large")
        if path.suffix == ".npy":
            found: dict[str, NDArray[Any]] = {"model": np.load(path, allow_pickle=False)}
        else:
            found = load_file(path)
    except (OSError, EOFError, ValueError, SafetensorError) as error:
        raise ArgumentError("model", str(path), f"a .safetensors or .npy file of parameters ({error})") from None
    if "model" in found:
        found = {"model": found["model"]}
    tensors = {name: np.ascontiguousarray(value.ravel(), dtype="<f4") for name, value in found.items()}
    orders = (list(tensors), sorted(tensors), sorted(tensors, key=_layer))
    return frozenset(
        hashlib.sha256(b"".join(tensors[name].tobytes() for name in order)).hexdigest() for order in orders
    )


def _layer(name: str) -> tuple[list[tuple[int, str]], int, str]:
    """Layers by number, weights before biases, as torch's modules have them."""
    *path, last = name.split(".")
    numbered = [(int(found), "") if re.fullmatch(r"\d{1,9}", found) else (-1, found) for found in path]
    return numbered, ("weight", "bias").index(last) if last in ("weight", "bias") else 2, last
