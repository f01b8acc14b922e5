"""What each party could find out, from a canary run: a lower bound and the claim beside it, and in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secure_fu.audit.protocol_findings import Claim
from secure_fu.audit.registration import all_bounds, level_of_verdicts, likelihood_scores, linear_scores
from secure_fu.audit.verdict import Outcome, Verdict
from secure_fu.auditor.canary.committee_view import CommitteeAttempt, committee_attempt
from secure_fu.auditor.canary.protocol_audit import claim_of, round_noise
from secure_fu.auditor.canary.runs import CanaryRun
from secure_fu.privacy.lower_bounds import EpsilonBound
from secure_fu.scheme_names import KAHE

__all__ = ["PartyView", "canary_views"]

_ABLE = 0.25
_FEWEST = 2  # canaries inserted, and left out, that bounds take
_VIEWS = 5  # that have bounds, among which false alarms are shared out


@dataclass(frozen=True, kw_only=True)
class PartyView:
    """One party, or some that pool what they know.

    Attributes:
        party: who.
        sees: what it has, in words.
        finds: what it could find out, in words.
        bounds: lower bounds on epsilon from its view; empty where it has no other view of canaries than another party.
        claim: what the ledger promises against it; None where the ledger promises nothing.
        attempts: of committee members to read uploads.
        figures: further ones by name.
        verdict: whether it found more than was promised.
    """

    party: str
    sees: str
    finds: str
    verdict: Verdict
    bounds: tuple[EpsilonBound, ...] = ()
    claim: Claim | None = None
    attempts: tuple[CommitteeAttempt, ...] = ()
    figures: Mapping[str, float | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """As ``audit.json`` carries it."""
        return {
            "party": self.party,
            "sees": self.sees,
            "finds": self.finds,
            "bounds": [bound.to_json() for bound in self.bounds],
            "claim": None if self.claim is None else self.claim.to_json(),
            "attempts": [attempt.to_json() for attempt in self.attempts],
            "figures": dict(self.figures),
            "verdict": self.verdict.to_json(),
        }


def canary_views(run: CanaryRun) -> tuple[PartyView, ...]:
    """The views of a canary run, from who sees most to who sees least."""
    clip_norm = run.plan.recipe.clip_norm
    everyone = np.ones(run.inserted.size, dtype=np.bool_)
    colluders = tuple(run.colluding)
    theirs = np.isin(run.holder, [run.holders.index(name) for name in colluders if name in run.holders])
    pooled = sum(run.colluding.values(), np.zeros_like(run.sums))
    exact = run.directions.scores(run.sums - run.known) / clip_norm
    plain = run.directions.scores(run.sums) / clip_norm
    views = [
        _view(
            run,
            party="whoever knows all but the canaries",
            sees="all released sums, and every contribution beside the canaries: what differential privacy assumes",
            components=exact,
            noise=round_noise(run),
            canaries=everyone,
        )
    ]
    if colluders:
        # The colluders' own records are in their uploads already: what the others contributed is left to subtract.
        rest = run.sums - pooled - _of_others(run)
        views.append(
            _view(
                run,
                party=f"the same, pooled with {_count(len(colluders), 'client')}",
                sees=(
                    f"also the whole uploads of {_count(len(colluders), 'client')}, noise included, and takes them out "
                    "of the sums; the canaries are those that others hold"
                ),
                components=run.directions.scores(rest) / clip_norm,
                noise=round_noise(run, without=len(colluders)),
                canaries=~theirs,
            )
        )
    views.append(
        _view(
            run,
            party="the server",
            sees="all released sums, who took part, and one ciphertext a client and round",
            components=plain,
            noise=_estimated_noise(run, run.sums),
            canaries=everyone,
        )
    )
    views.append(_openers(run))
    if colluders:
        name = colluders[0]
        own = run.holders.index(name) if name in run.holders else -1
        less = run.sums - run.colluding[name]
        views.append(
            _view(
                run,
                party="a client",
                sees="all released models, which tell the sums, and its own upload, noise included",
                components=run.directions.scores(less) / clip_norm,
                noise=_estimated_noise(run, less),
                canaries=run.holder != own,
            )
        )
    views.append(_outsider(run))
    return tuple(views)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _of_others(run: CanaryRun) -> NDArray[np.float64]:
    """What clients contributed beside canaries, without the colluders."""
    return run.known - sum(run.known_colluding.values(), np.zeros_like(run.known))


def _estimated_noise(run: CanaryRun, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a round's sum scatters along a random direction, whatever is in it: |sum| / sqrt(d), in clip norms.

    Who does not know the gradients has to take them for noise; of variance |g|^2 / d along random directions.
    """
    lengths = np.linalg.norm(sums, axis=1) / math.sqrt(run.directions.dimension)
    estimated: NDArray[np.float64] = lengths / run.plan.recipe.clip_norm
    return estimated


def _view(
    run: CanaryRun,
    *,
    party: str,
    sees: str,
    components: NDArray[np.float64],
    noise: NDArray[np.float64],
    canaries: NDArray[np.bool_],
    rate: float | None = None,
) -> PartyView:
    """Bounds of the registered statistic on what a party sees."""
    registration, claim = run.registration, claim_of(run)
    rate = registration.sampling_rate if rate is None else rate
    inside = int(run.inserted[canaries].sum())
    if min(inside, int(canaries.sum()) - inside) < _FEWEST:
        sentence = f"Too few canaries are left in this view for a bound: {int(canaries.sum())}, {inside} inserted."
        verdict = Verdict(outcome=Outcome.CANNOT_TELL, sentence=sentence)
        return PartyView(party=party, sees=sees, finds=sentence, claim=claim, verdict=verdict)
    chosen = components[:, canaries]
    likelihood = likelihood_scores(chosen, noise=noise, rate=rate)
    linear = linear_scores(chosen, noise=noise)

    def at(level: float) -> tuple[EpsilonBound, ...]:
        return all_bounds(
            likelihood,
            linear,
            run.inserted[canaries],
            registered=registration.registered_for(int(canaries.sum())),
            delta=claim.delta,
            level=level,
        )

    bounds = at(registration.level)
    refuting = max(at(level_of_verdicts(registration.alarm / _VIEWS)), key=lambda bound: bound.value)
    best = max(bounds, key=lambda bound: bound.value)
    figures: dict[str, float | None] = {
        "canaries": float(canaries.sum()),
        "highest_bound": best.value,
        "refuting_bound": refuting.value,
        "claim": claim.epsilon if math.isfinite(claim.epsilon) else None,
    }
    finds = (
        f"Of the {claim.epsilon:.2f} that the ledger allows, it can show {best.value:.2f} ({best.method}; assumes "
        f"{best.assumption.value}) and {bounds[0].value:.2f} without assumptions on scores."
    )
    if refuting.value > claim.epsilon:
        verdict = Verdict(outcome=Outcome.LEAK, sentence=f"It finds more than was promised. {finds}", figures=figures)
    elif best.value >= _ABLE * claim.epsilon:
        verdict = Verdict(outcome=Outcome.PASSED, sentence=f"It finds no more than promised. {finds}", figures=figures)
    else:
        verdict = Verdict(
            outcome=Outcome.CANNOT_TELL,
            sentence=f"It finds next to nothing, by this statistic; a better one may find more. {finds}",
            figures=figures,
        )
    return PartyView(party=party, sees=sees, finds=finds, bounds=bounds, claim=claim, figures=figures, verdict=verdict)


def _outsider(run: CanaryRun) -> PartyView:
    """The last model less the public first one is a weighted sum of the rounds' sums."""
    recipe, rounds = run.plan.recipe, run.sums.shape[0]
    powers = recipe.momentum ** np.arange(rounds)
    weight = recipe.learning_rate / (recipe.sampling_rate * recipe.nominal_units) * float(np.cumsum(powers).sum())
    moved = (run.first_model.astype(np.float64) - run.last_model.astype(np.float64)) / weight / recipe.clip_norm
    # In one mean round, in which an inserted canary is worth its rate: a shift of 1 after division by it.
    mean = moved / recipe.sampling_rate
    scatter = np.array([float(np.linalg.norm(mean)) / math.sqrt(mean.size)])
    return _view(
        run,
        party="an outsider",
        sees="the last model alone, and the public one that training began with",
        components=run.directions.scores(mean)[None],
        noise=scatter,
        canaries=np.ones(run.inserted.size, dtype=np.bool_),
        rate=1.0,
    )


def _openers(run: CanaryRun) -> PartyView:
    """Those who open sums, pooled with the server."""
    if run.scheme_name == "plain":
        sentence = (
            "Nothing is encrypted: the server reads every upload, of which only the client's own noise share hides."
        )
        return PartyView(
            party="whoever opens the sums",
            sees="every upload in the clear, as the server does",
            finds=sentence,
            verdict=Verdict(outcome=Outcome.LEAK, sentence=sentence),
        )
    if run.scheme_name != KAHE:
        sentence = (
            "The key-holder, if it pooled what it has with the server, would open every upload by itself, behind no "
            "more than one client's noise share. Nothing but its honesty prevents that, and nothing was tried."
        )
        return PartyView(
            party="the key-holder, pooled with the server",
            sees="the key that opens uploads and sums, and every ciphertext",
            finds=sentence,
            verdict=Verdict(outcome=Outcome.CANNOT_TELL, sentence=sentence),
        )
    terms = run.captured[0].header
    few = committee_attempt(run, members=terms.corrupt)
    enough = committee_attempt(run, members=terms.threshold)
    finds = (
        f"{_count(few.members, 'member')} opened {few.opened} of {_count(few.uploads, 'upload')}; what they read "
        f"correlates with what was encrypted by {few.correlation:+.4f} (chance stays within "
        f"{few.correlation_by_chance:.4f}), and guesses about canaries from it have an AUC of "
        f"{few.guessing.value:.2f} [{few.guessing.low:.2f}, {few.guessing.high:.2f}], where a coin toss has 0.5. "
        f"{enough.members} members would open {enough.opened} of them, and guess with an AUC of "
        f"{enough.guessing.value:.2f} from one upload."
    )
    leaks = few.opened > 0 or abs(few.correlation) > 2.0 * few.correlation_by_chance
    works = enough.opened == enough.uploads
    outcome = Outcome.LEAK if leaks else Outcome.PASSED if works else Outcome.INVALID
    return PartyView(
        party=f"{_count(terms.corrupt, 'committee member')}, pooled with the server",
        sees="the shares of every upload's key that are sealed to them, beside all that the server has",
        finds=finds,
        attempts=(few, enough),
        figures={"correlation": few.correlation, "opened": float(few.opened), "guessing": few.guessing.value},
        verdict=Verdict(
            outcome=outcome,
            sentence={
                Outcome.LEAK: f"They read something of single uploads. {finds}",
                Outcome.PASSED: f"They read nothing of single uploads. {finds}",
                Outcome.INVALID: f"The attempt does not work even with enough members, and shows nothing. {finds}",
            }[outcome],
        ),
    )
