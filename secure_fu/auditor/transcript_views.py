"""What each party could find out from the transcript of a finished run: who took part in what, sizes, and the claims.

A finished run holds no canaries, so that nothing of it is a lower bound: claims are the ledger's, and what the lists of
participants tell is certain. It is public by design; what it comes to in a certain run, nobody is told elsewhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from secure_fu.audit.protocol_findings import Claim
from secure_fu.audit.verdict import Outcome, Verdict
from secure_fu.auditor.canary.views import PartyView
from secure_fu.crypto import Roster
from secure_fu.errors import RunDirectoryError
from secure_fu.file_names import LEDGER, POLICY, ROSTER, TRANSCRIPT
from secure_fu.privacy import Phase, PrivacyLedger, Subject
from secure_fu.protocol import VerifiedBranch, read_policy, verify_against_ledger, verify_transcript

__all__ = ["BranchSeen", "TranscriptSeen", "read_transcript", "transcript_views"]

_FILES = (TRANSCRIPT, ROSTER, POLICY, LEDGER)


@dataclass(frozen=True, kw_only=True)
class BranchSeen:
    """One branch, as anybody sees it who has the transcript.

    Attributes:
        name, parent: of the branch and of the one that it goes on from.
        purposes: of its rounds.
        rounds: that were released.
        fewest, most: uploads in a round's sum.
        late: the first round number of each client that was not there in the first round; of branches without parent.
        left: clients that were in the last round of the parent and in none of this branch.
        starts_before: round of the parent whose model it goes on from, where that is an earlier one than the last;
            None for a branch that starts elsewhere.
        fits: clients whose first round that is or a later one: of whose data the model that it starts from knows
            nothing. A method that goes back to before somebody joined gives those away.
        missed: how many rounds a client was away after its first one, and before its last; zero is left out.
        parameter_sets: of the encryption. Within a round all uploads to one parameter set have one size.
        claims: the ledger's largest epsilon over all clients, by subject, for training and unlearning together.
    """

    name: str
    parent: str | None
    purposes: tuple[str, ...]
    rounds: int
    fewest: int
    most: int
    late: Mapping[str, int]
    left: tuple[str, ...]
    starts_before: int | None
    fits: tuple[str, ...]
    missed: Mapping[str, int]
    parameter_sets: tuple[str, ...]
    claims: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class TranscriptSeen:
    """A whole transcript, verified.

    Attributes:
        openers: who opens, as the headers say.
        corrupt: committee members that may pool with the server; 0 for a key-holder.
        colluders: clients that may.
        delta: of the claims.
        branches: in the order in which they begin.
        unreleased: rounds that were charged and are not in the transcript.
    """

    openers: str
    corrupt: int
    colluders: int
    delta: float
    branches: tuple[BranchSeen, ...]
    unreleased: int

    @property
    def worst_claim(self) -> float:
        """The largest claim of any single branch."""
        return max((value for branch in self.branches for value in branch.claims.values()), default=0.0)


def read_transcript(directory: Path) -> TranscriptSeen:
    """Verify a run directory's transcript against roster, policy and ledger, and read who took part in what.

    Raises:
        RunDirectoryError: a file is missing.
        TranscriptError: the transcript does not hold, or the ledger tells otherwise.
        LedgerError, WireError, ArgumentError: a file is damaged.
    """
    missing = [name for name in _FILES if not (directory / name).is_file()]
    if missing:
        raise RunDirectoryError(
            f"{directory} has no {', '.join(missing)}; expected a run directory of this version, as simulate makes it"
        )
    roster = Roster.decode((directory / ROSTER).read_bytes())
    policy = read_policy(directory / POLICY)
    verified = verify_transcript(directory / TRANSCRIPT, roster=roster, policy=policy)
    with PrivacyLedger.open(directory / LEDGER, read_only=True) as ledger:
        unreleased = verify_against_ledger(verified, ledger)
        by_name = {branch.name: branch for branch in verified}
        models = _models(directory / TRANSCRIPT)
        branches = tuple(_seen(branch, by_name, ledger, models) for branch in verified)
    return TranscriptSeen(
        openers=verified[0].openers if verified else "nobody yet",
        corrupt=policy.terms.corrupt,
        colluders=policy.colluders,
        delta=policy.budget.delta,
        branches=branches,
        unreleased=unreleased,
    )


def _models(path: Path) -> dict[str, dict[str, int]]:
    """For each branch the first round that each model, by its hash, was sent out in. The file is verified."""
    models: dict[str, dict[str, int]] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            fields = json.loads(line)
            models.setdefault(fields["branch"], {}).setdefault(fields["model"], fields["round"])
    return models


def _seen(
    branch: VerifiedBranch,
    others: Mapping[str, VerifiedBranch],
    ledger: PrivacyLedger,
    models: Mapping[str, Mapping[str, int]],
) -> BranchSeen:
    parent = ledger.branches.get(branch.name)
    lists = [set(release.participants) for release in branch.releases]
    everybody = sorted(set().union(*lists))
    places = {name: [place for place, there in enumerate(lists) if name in there] for name in everybody}
    before: set[str] = set()
    starts_before: int | None = None
    fits: tuple[str, ...] = ()
    if parent is not None and parent in others:
        # The parent as it was when this branch began, whether or not it went on.
        first = branch.releases[0].round_number
        earlier = [release for release in others[parent].releases if release.round_number < first]
        before = set(earlier[-1].participants) if earlier else set()
        began_with = next(model for model, number in models[branch.name].items() if number == first)
        starts_before = models[parent].get(began_with)
        if starts_before is not None:
            knew = {
                name for release in earlier if release.round_number < starts_before for name in release.participants
            }
            fits = tuple(sorted(before - knew))
    claims = {
        subject.value: max(ledger.epsilon(branch.name, name, subject, Phase.BOTH) for name in everybody)
        for subject in Subject
    }
    return BranchSeen(
        name=branch.name,
        parent=parent,
        purposes=tuple(sorted({release.purpose for release in branch.releases})),
        rounds=len(lists),
        fewest=min(map(len, lists)),
        most=max(map(len, lists)),
        late={
            name: branch.releases[seen[0]].round_number for name, seen in places.items() if parent is None and seen[0]
        },
        left=tuple(sorted(before - set(everybody))),
        starts_before=starts_before,
        fits=fits,
        missed={name: away for name, seen in places.items() if (away := seen[-1] - seen[0] + 1 - len(seen))},
        parameter_sets=tuple(sorted({release.parameter_set for release in branch.releases})),
        claims=claims,
    )


def transcript_views(seen: TranscriptSeen) -> tuple[PartyView, ...]:
    """What each party can tell from a transcript, in words; no bounds, for there are no canaries in it."""
    lists = _lists(seen)
    left = sorted({name for branch in seen.branches for name in branch.left})
    worst = seen.worst_claim
    claim = Claim(epsilon=worst, delta=seen.delta)
    promised = f"The ledger promises epsilon {worst:.2f} for any unit, in the branch that costs most"
    figures: dict[str, float | None] = {
        "rounds": float(sum(branch.rounds for branch in seen.branches)),
        "clients_that_left": float(len(left)),
        "claim": worst if math.isfinite(worst) else None,
        "unreleased_rounds": float(seen.unreleased),
    }
    untested = "No canary was in this run, so that nothing was measured against it."
    suspects = sorted({name for branch in seen.branches if 0 < len(branch.fits) < branch.most for name in branch.fits})
    gives_away = [f"The lists of participants show that {', '.join(left)} left."] if left else []
    if suspects:
        gives_away.append(f"Where a branch starts gives away that {_one_of(suspects)} may have asked for a deletion.")
    if not gives_away:
        gives_away.append("Neither lists of participants nor where branches start show who asked for a deletion.")
    who_left = Verdict(
        outcome=Outcome.CANNOT_TELL,
        sentence=" ".join(
            ["Signatures, policy and ledger agree with the transcript.", *gives_away, untested],
        ),
        figures=figures,
    )
    clients = f"{seen.colluders} client{'' if seen.colluders == 1 else 's'}"
    if seen.corrupt:
        opener = PartyView(
            party=f"{seen.corrupt} committee members, pooled with the server",
            sees="the shares sealed to them, the rolls that they voted on, and all that the server has",
            finds=(f"What the server finds, and nothing of single uploads: {seen.openers}. A canary run has them try."),
            claim=claim,
            verdict=Verdict(outcome=Outcome.CANNOT_TELL, sentence=f"Nothing was tried on this run. {untested}"),
        )
    else:
        opener = PartyView(
            party="who opens the sums, pooled with the server",
            sees="the key of every round, and all that the server has",
            finds=f"Every upload, behind that client's noise share alone: {seen.openers}. Its honesty is assumed.",
            verdict=Verdict(outcome=Outcome.CANNOT_TELL, sentence=f"It is assumed to be honest. {untested}"),
        )
    return (
        PartyView(
            party=f"the server, pooled with {clients}",
            sees=(
                "all released sums and models, who took part in which round, and when; one ciphertext a client and "
                "round, all of one size within a round, for the parameter set fixes it"
            ),
            finds=f"{lists} {promised}, also against it and {clients} who tell all they know.",
            claim=claim,
            figures=figures,
            verdict=who_left,
        ),
        opener,
        PartyView(
            party="a client",
            sees="the released models, the headers with the cohort's names, and its own data and noise",
            finds=f"{promised}. {lists}",
            claim=claim,
            figures=figures,
            verdict=who_left,
        ),
        PartyView(
            party="an outsider",
            sees="the last model alone",
            finds=f"{promised}; from one model there is less to see than from all of them, and no better promise.",
            claim=claim,
            verdict=Verdict(outcome=Outcome.CANNOT_TELL, sentence=untested),
        ),
    )


def _one_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"one of {', '.join(names)}"


def _lists(seen: TranscriptSeen) -> str:
    """What the lists of participants tell everybody who has the transcript."""
    parts = []
    for branch in seen.branches:
        size = f"{branch.fewest}" if branch.fewest == branch.most else f"{branch.fewest} to {branch.most}"
        part = f"{branch.name}: {branch.rounds} rounds of {size} clients"
        if branch.late:
            part += ", joined late: " + ", ".join(f"{name} (round {first})" for name, first in branch.late.items())
        if branch.left:
            part += ", gone: " + ", ".join(branch.left)
        if branch.starts_before is not None and 0 < len(branch.fits) < branch.most:
            part += (
                f", starting from the model before round {branch.starts_before}, which knows nothing of "
                f"{', '.join(branch.fits)}: if it went back so that somebody is forgotten, it is among these"
            )
        if branch.missed:
            part += f", {len(branch.missed)} of them away at times"
        parts.append(part)
    return "Lists of participants tell: " + "; ".join(parts) + "."
