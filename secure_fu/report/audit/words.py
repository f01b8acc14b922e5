"""What an audit's answers and names mean, in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secure_fu.report.audit.result import Audit, MethodRow, Outcome, Verdict
from secure_fu.report.text import decimal, interval

__all__ = [
    "BASELINE",
    "QUICK",
    "Card",
    "areas",
    "cards",
    "finding_title",
    "game_title",
    "grouped",
    "headline",
    "is_control",
    "meaning",
    "method_bound_title",
    "method_title",
    "p_value",
    "reasons",
    "score_title",
]

BASELINE = "baseline, does not count"
QUICK = "Made with --quick: a look, not a verdict to sign."

_HEADLINES = {
    Outcome.LEAK: "A leak was found",
    Outcome.INVALID: "The audit is not valid",
    Outcome.CANNOT_TELL: "The audit cannot tell",
    Outcome.PASSED: "Nothing was found, and it would have been",
}
_MEANINGS = {
    Outcome.LEAK: (
        "At least one test found what should not be there, at an error rate that was fixed beforehand. A leak that was "
        "found is there; repeating the audit until it is gone does not remove it."
    ),
    Outcome.INVALID: (
        "Something that the audit rests on does not hold. Neither finding something nor finding nothing would mean "
        "anything. The reason is given below; mend it and audit again."
    ),
    Outcome.CANNOT_TELL: (
        "Nothing was found, and the tests were too weak to say more. This is no pass: a leak may be there. What would "
        "have been found, and what it takes to see more, stands with each figure."
    ),
    Outcome.PASSED: (
        "No test found anything, and each would have found a leak of the size that was stated beforehand. A smaller "
        "leak, or one that these attacks do not look for, may still be there."
    ),
}

# Names of attacks, figures and bounds as files write them, with "_" and "-" alike.
_SCORES = {
    "loss": "loss attack",
    "calibrated": "calibrated loss",
    "rmia": "RMIA",
    "lira-online": "LiRA",
    "lira-offline": "LiRA, offline",
    "likelihood-ratio": "likelihood ratio (U-LiRA)",
    "scores": "scores as they came",
}
_BOUNDS = {
    "clopper-pearson": "counting (Clopper-Pearson)",
    "one-run": "one run (Steinke 2023)",
    "f-dp": "f-DP (Mahloujifar 2024)",
    "gaussian-scores": "Gaussian scores",
    "mean-test": "mean test",
}
_FINDINGS = {
    "noise": "Is the noise there, in a round of noise only?",
    "rounds": "Is it there in the training rounds?",
    "contributions": "Does everybody clip, and sample as declared?",
    "claim": "Does any bound exceed the claim?",
}
_GAMES = {
    "out-then-out": "or never there?",
    "never": "or never there?",
    "in-then-in": "or still there?",
    "retained": "or still there?",
}
_METHODS = {
    "nothing": "Doing nothing (control)",
    "retrained": "Retraining",
    "rollback": "Rollback",
    "scrub": "Scrub",
    "correction": "Correction of the client's history",
    "finetune": "Fine-tuning on the rest",
    "scratch": "From scratch, few rounds",
    "newton": "Newton step",
    "ascent": "Projected ascent",
    "eraser": "Eraser",
    "fisher": "Fisher reset",
    "negation": "Negation of a layer",
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """One question of the audit and its answer; the reason is left to what stands above if it says the same."""

    title: str
    question: str
    outcome: Outcome
    reason: str


def headline(outcome: Outcome) -> str:
    """The outcome in a few words."""
    return _HEADLINES[outcome]


def meaning(outcome: Outcome) -> str:
    """What the outcome says and what it does not, for a reader without statistics."""
    return _MEANINGS[outcome]


def cards(audit: Audit) -> tuple[Card, ...]:
    """Every question that was asked, in the order of the page; methods of deletion with the same answer share one."""
    found = []
    if audit.membership is not None:
        question = "Does the model tell whose data it was trained on?"
        found.append(("Membership", question, audit.membership.verdict))
    rows = () if audit.deletion is None else audit.deletion.rows
    methods = [(row.title, row.verdict) for row in rows if not is_control(row) and not row.baseline]
    question = "Has the model forgotten, as after retraining?"
    found += [(title, question, verdict) for title, verdict in grouped(methods)]
    if audit.protocol is not None:
        found.append(("Protocol", "Is the noise there that the privacy claim counts on?", audit.protocol.verdict))
    return tuple(
        Card(
            title=title,
            question=question,
            outcome=verdict.outcome,
            reason="As above." if verdict.sentence in audit.sentences else verdict.sentence,
        )
        for title, question, verdict in found
    )


def is_control(row: MethodRow) -> bool:
    """Retraining and doing nothing are there to show what the tests can tell."""
    return row.name in ("retrained", "nothing")


def grouped(answers: Iterable[tuple[str, Verdict]]) -> list[tuple[str, Verdict]]:
    """Titled answers of the same outcome and reason as one that names them all, in the order of their first."""
    titles: dict[tuple[Outcome, str], list[str]] = {}
    first: dict[tuple[Outcome, str], Verdict] = {}
    for title, verdict in answers:
        key = (verdict.outcome, verdict.sentence)
        titles.setdefault(key, []).append(title)
        first.setdefault(key, verdict)
    return [(_listed(titles[key]), verdict) for key, verdict in first.items()]


def reasons(answers: Sequence[tuple[str, Verdict]]) -> list[str]:
    """The reason of each titled answer; one that stands above already is not said again."""
    said: dict[str, str] = {}
    found = []
    for title, verdict in answers:
        found.append(f'As for "{said[verdict.sentence]}" above.' if verdict.sentence in said else verdict.sentence)
        said.setdefault(verdict.sentence, title)
    return found


def areas(row: MethodRow) -> str:
    """What the before/after attack that was chosen beforehand finds of a method, in words; empty if it was not run."""
    return " ".join(
        f"Forgotten {game_title(game).rstrip('?')}: area {interval(attack.auc)}."
        for game, attack in row.headline.items()
    )


def score_title(name: str) -> str:
    """An attack or a figure of a deletion."""
    return _look_up(_SCORES, name)


def method_bound_title(name: str) -> str:
    """A method of bounding epsilon from below."""
    return _look_up(_BOUNDS, name)


def finding_title(name: str) -> str:
    """A question of the protocol's audit."""
    return _look_up(_FINDINGS, name)


def game_title(name: str) -> str:
    """A game of the before/after attack, as a question about a record that was there before."""
    return _look_up(_GAMES, name)


def method_title(name: str) -> str:
    """A method of deletion, where the file does not say it in words."""
    return _look_up(_METHODS, name).capitalize() if name not in _METHODS else _METHODS[name]


def p_value(value: float | None) -> str:
    """A p-value: "0.032", "below 0.001"."""
    return "below 0.001" if value is not None and value < 0.001 else decimal(value, 3)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _look_up(titles: dict[str, str], name: str) -> str:
    return titles.get(name.lower().replace("_", "-").replace(" ", "-"), name.replace("_", " "))
