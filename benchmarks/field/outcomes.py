"""What came of each kill: of the round that was under way, by traces, ledger and transcript; and the table of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from field.facts import Facts
from field.story import Kill

__all__ = ["outcome_of", "table", "where"]


def where(kill: Kill, facts: Facts) -> str:
    """The place in the code, or what was going on at that time."""
    if kill.place:
        return kill.place
    if kill.kind in ("client", "member", "key-holder"):
        for one in reversed(facts.said):
            if one.node == kill.name and one.began <= kill.at < one.ended:
                if kill.at - one.began < 5.0:
                    return f"answering {one.kind.value}"
                break
        return "waiting"
    last = next((one for one in reversed(facts.said) if one.began <= kill.at), None)
    return "starting" if last is None else f"after {last.kind.value}"


def outcome_of(kill: Kill, facts: Facts) -> str:
    """What became of the round that was under way, whoever else was killed in it."""
    status = {(row.branch, row.round_number): row for row in facts.ledger}
    under_way = max(
        ((key, seen) for key, seen in facts.seen.items() if seen.first <= kill.at),
        key=lambda entry: entry[1].first,
        default=None,
    )
    if kill.kind == "intake":
        return "handed in again or already there"
    if under_way is None or under_way[1].last < kill.at - 1.0:
        return "no round under way"
    (run, number), _ = under_way
    row = status.get((facts.runs[run], number))
    if row is None:
        return "NOT IN THE LEDGER"
    released = {(branch, header.round_number) for branch, header, _ in facts.releases}
    if row.status == "reserved" or (row.status == "committed" and (row.branch, number) not in released):
        return "round lost, charged"
    if row.status == "void":
        return "round given up unopened, not charged"
    if kill.kind in ("server", "service"):
        return "round released once"
    hosted = facts.field.hosted[kill.name]
    took_part: Collection[str] = row.participants or ()
    if kill.kind != "client":
        took_part = [
            approval.name
            for branch, header, release in facts.releases
            if (branch, header.round_number) == (row.branch, number)
            for approval in release.approvals
        ]
    there = sum(name in took_part for name in hosted)
    return "round released without it" if there == 0 else "round released with it"


def table(found: Iterable[tuple[str, str, str]]) -> str:
    """Lines of text: which kind of process, where, how often, and what came of it."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for kind, place, outcome in found:
        counts.setdefault((kind, place), Counter())[outcome] += 1
    lines = [f"{'process':<11} {'where':<44} {'kills':>5}  what came of it"]
    for (kind, place), outcomes in sorted(counts.items()):
        said = "; ".join(f"{outcome} ({times})" for outcome, times in outcomes.most_common())
        lines.append(f"{kind:<11} {place:<44} {outcomes.total():>5}  {said}")
    return "\n".join(lines)
