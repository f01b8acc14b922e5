"""What a deletion certificate says, in words for somebody who has to sign for it and is no statistician."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "WEAK",
    "Card",
    "Secrecy",
    "cards",
    "headline",
    "is_weak",
    "meaning",
    "moment",
    "requests",
    "secrecy",
    "sureness",
    "units",
]

WEAK = "A bound so large guarantees next to nothing."

_SCOPES = {
    "client": "a whole client leaves",
    "group": "all records of persons",
    "records": "some records",
    "class": "all records of a class",
}
_UNITS = {"record": ("record", "records"), "group": ("person", "persons"), "client": ("client", "clients")}
_FORGETTING = {
    "exact": "As if the data had never been there: the model was trained without it, with fresh noise.",
    "certified": "Close to a model that never saw the data, up to a proven bound.",
    "heuristic": "The method steers the model away from the data. There is no proof; only an audit can speak.",
    "baseline": "This is no unlearning method. It promises nothing.",
}
_ANSWERS = {
    "leak": "A leak was found",
    "invalid": "The audit is not valid",
    "cannot tell": "The audit cannot tell",
    "passed": "Nothing was found, and it would have been",
}
_FIGURES = (
    ("phase", "Was the data there?", "judged by the rounds of the deletion alone"),
    ("pair", "Was the data ever there?", "judged by everything that was released before and after"),
    ("who_asked", "Did it leave, or stay?", "judged by the rounds of the deletion"),
)


@dataclass(frozen=True, kw_only=True)
class Card:
    """One of the four answers at the top.

    Attributes:
        title: of what.
        tone: `yes`, `unknown` or `no`.
        answer: in a few words.
        text: what it means.
    """

    title: str
    tone: str
    answer: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Secrecy:
    """One figure of confidentiality.

    Attributes:
        question: that an onlooker asks.
        source: what the onlooker looks at.
        epsilon: None where there is no bound.
        sure: how sure the onlooker can become that began undecided, from 0.5 to 1.
        group: the same for all units together; None where that is the same figure, or none.
        group_epsilon: their epsilon; None where there is no bound.
    """

    question: str
    source: str
    epsilon: float | None
    sure: float
    group: float | None
    group_epsilon: float | None


def units(body: Mapping[str, Any], count: int) -> str:
    """So many privacy units, in words."""
    one, many = _UNITS[body["accounting"]["unit"]]
    return f"{count} {one if count == 1 else many}"


def headline(body: Mapping[str, Any]) -> str:
    """What happened, in one sentence."""
    count = body["asked"]["units"]
    asked = len(body["asked"]["requests"])
    if not asked:
        return f"A round for cover: up to {units(body, count)} may have been forgotten on private requests"
    answered = "One request was" if asked == 1 else f"{asked} requests were"
    return f"{answered} put to the clients: at most {units(body, count)} forgotten"


def sureness(epsilon: float | None) -> float:
    """How sure somebody can become that began undecided: e^epsilon / (1 + e^epsilon), but for the chance delta."""
    return 1.0 if epsilon is None else 1.0 / (1.0 + math.exp(-epsilon))


def is_weak(epsilon: float | None) -> bool:
    """Whether an epsilon bounds next to nothing: who began undecided can become all but certain."""
    return epsilon is None or epsilon > 10.0


def secrecy(body: Mapping[str, Any]) -> tuple[Secrecy, ...]:
    """The three figures."""
    said, group = body["confidentiality"], body["confidentiality"]["group"]
    return tuple(
        Secrecy(
            question=question,
            source=source,
            epsilon=said[name]["value"],
            sure=sureness(said[name]["value"]),
            group=None if group is None else sureness(group[name]["value"]),
            group_epsilon=None if group is None else group[name]["value"],
        )
        for name, question, source in _FIGURES
    )


def meaning(body: Mapping[str, Any]) -> str:
    """What the guarantee about forgetting says."""
    return _FORGETTING[body["forgetting"]["kind"]]


def cards(body: Mapping[str, Any]) -> tuple[Card, ...]:
    """Forgetting, secrecy, destruction, audit."""
    return (_forgetting(body), _secrecy(body), _destroyed(body), _audited(body))


def _forgetting(body: Mapping[str, Any]) -> Card:
    said = body["forgetting"]
    kind, epsilon = said["kind"], said["epsilon"]
    text = meaning(body)
    tone = "yes" if kind == "exact" or (kind == "certified" and epsilon is not None and epsilon <= 1.0) else "unknown"
    answer = {"exact": "Exact", "heuristic": "No proof", "baseline": "None"}.get(kind, "Certified")
    if kind == "certified":
        tone = "no" if is_weak(epsilon) else tone
        text = f"{text} {WEAK}" if is_weak(epsilon) else text
        answer = "No bound" if epsilon is None else f"Certified, epsilon {epsilon:.2f}"
    return Card(title="Is it forgotten?", tone=tone, answer=answer, text=text)


def _secrecy(body: Mapping[str, Any]) -> Card:
    worst = [body["confidentiality"][name]["value"] for name in ("phase", "pair", "who_asked")]
    if None in worst:
        return Card(title="Is the deletion itself secret?", tone="no", answer="No bound", text="A figure has no bound.")
    most = max(worst)
    return Card(
        title="Is the deletion itself secret?",
        tone="yes" if most <= 1.0 else "no" if is_weak(most) else "unknown",
        answer=f"Epsilon up to {most:.2f}",
        text=f"Whoever sees every release and began undecided about one {units(body, 1)[2:]} becomes at most "
        f"{100 * sureness(most):.1f} % sure.",
    )


def _destroyed(body: Mapping[str, Any]) -> Card:
    done, open_ = len(body["wiped"]), len(body["unconfirmed"])
    title = "Is the data destroyed?"
    if not done and not open_:
        return Card(title=title, tone="unknown", answer="No statement", text="No client has signed that it is.")
    text = "Every client signs, whether or not it had anything to destroy. It is the client's word. "
    text += "What it cannot find, as a record that it has not, it leaves undone, and only its own node's log says so."
    if open_:
        return Card(title=title, tone="unknown", answer=f"{done} of {done + open_} clients signed", text=text)
    if body["transcript"]["rounds"] and not all(one["rounds"] for one in body["wiped"]):
        text += " Some had answered no round of the deletion."
    # Not "every client": the page does not know the roster, and a server may leave some out of both lists.
    answer = f"All {done} clients that it lists signed" if done > 1 else "The client that it lists signed"
    return Card(title=title, tone="yes", answer=answer, text=text)


def _audited(body: Mapping[str, Any]) -> Card:
    audit = body["audit"]
    if audit is None:
        return Card(
            title="Has it been tested by attacks?",
            tone="unknown",
            answer="No audit was run",
            text="Nothing was measured of how well the data is forgotten.",
        )
    tone = {"passed": "yes", "leak": "no", "invalid": "no"}.get(audit["outcome"], "unknown")
    return Card(
        title="Has it been tested by attacks?",
        tone=tone,
        answer=_ANSWERS[audit["outcome"]],
        text=f"By an audit of the procedure ({audit['source']}), made {audit['created'][:10]}.",
    )


def requests(body: Mapping[str, Any]) -> list[tuple[str, str, str, str, str, str]]:
    """A row for each request: who, what, how much, when, until when, in time."""
    rows = []
    for one in body["asked"]["requests"]:
        met = {None: "–", True: "yes", False: "no, later"}[one["deadline_met"]]
        rows.append(
            (
                one["requester"]["name"] or "does not want to be named",
                _SCOPES[one["scope"]],
                "–" if one["units"] is None else units(body, one["units"]),
                moment(one["submitted"]),
                moment(one["deadline"]),
                met,
            )
        )
    return rows


def moment(text: str | None) -> str:
    """A time of a certificate, for people."""
    return "–" if text is None else text.replace("T", " ").replace("Z", " UTC")
