"""What a certificate says about privacy spent: charged rounds in a form that anybody can add up again.

A round is of a *kind*: which part of the story it belongs to, its phase, whether it was released, and what it charged a
forgotten and a retained unit. A client's *profile* is how often it was charged for each kind. Only profiles that no
other client's exceeds are kept, for every figure is the largest over clients and grows with each round: the figures
follow from them, and they name nobody.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import partial
from typing import Any, Final

from secure_fu.errors import ArgumentError
from secure_fu.privacy import (
    ExchangedSum,
    GaussianSumEvent,
    LedgerEvent,
    Phase,
    PrivacyLedger,
    Subject,
    exchange_epsilon,
    renyi_epsilon,
)

__all__ = [
    "Accounts",
    "Counted",
    "Part",
    "RoundKind",
    "ledger_rounds",
    "part_of",
]

_MOST_PROFILES: Final = 32
_FIGURES: Final = ("phase", "pair", "who_asked")

Profile = tuple[int, ...]
Lineage = Sequence[tuple[str, int]]


class Part(StrEnum):
    """Which part of the story a round belongs to."""

    BASIS = "basis"
    """Rounds that the state comes from which the deletion began with."""

    BEFORE = "before"
    """Rounds before the deletion, on the same line, which it took back: the state no longer comes from them."""

    BESIDE = "beside"
    """Rounds of branches that the model does not come from, tried out before the deletion ended."""

    DELETION = "deletion"
    """The deletion's own rounds."""


class Counted(StrEnum):
    """Which rounds a certified guarantee counts."""

    BASIS = "basis"
    """Those of the state that the deletion began with."""

    EVERYTHING = "everything"
    """All that was released before the deletion: what a request or setting that was chosen late may depend on."""


@dataclass(frozen=True, kw_only=True)
class RoundKind:
    """Rounds that cost the same and mean the same.

    Attributes:
        part: of the story.
        phase: of the ledger.
        released: False for a round that was charged and has no release.
        forgotten: what it charged a unit that a request names, None where none enters.
        retained: the same for one that stays.
    """

    part: Part
    phase: Phase
    released: bool
    forgotten: GaussianSumEvent | None
    retained: GaussianSumEvent | None

    @property
    def larger(self) -> GaussianSumEvent | None:
        """The larger of the two charges."""
        charges = [charge for charge in (self.forgotten, self.retained) if charge is not None]
        return max(charges, key=lambda one: one.sampling_rate, default=None)

    def to_json(self) -> dict[str, Any]:
        """The kind as a certificate carries it."""
        return {
            "part": self.part.value,
            "phase": self.phase.value,
            "released": self.released,
            "forgotten": _plain(self.forgotten),
            "retained": _plain(self.retained),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RoundKind:
        """What :meth:`to_json` made.

        Raises:
            ArgumentError: an event is outside its domain.
            ValueError: a part or phase is unknown.
        """
        return cls(
            part=Part(value["part"]),
            phase=Phase(value["phase"]),
            released=value["released"],
            forgotten=None if value["forgotten"] is None else GaussianSumEvent(**value["forgotten"]),
            retained=None if value["retained"] is None else GaussianSumEvent(**value["retained"]),
        )


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """Kinds of rounds, and how often the clients that were charged most were charged for each.

    Attributes:
        kinds: distinct, in a fixed order.
        forgotten: profiles of the clients that hold, or may hold, units to be forgotten; one count for each kind.
        retained: the same of the clients that may hold others.

    Raises:
        ArgumentError: a profile does not fit the kinds, or a kind occurs twice.
    """

    kinds: tuple[RoundKind, ...]
    forgotten: tuple[Profile, ...]
    retained: tuple[Profile, ...]

    def __post_init__(self) -> None:
        if len(set(self.kinds)) != len(self.kinds):
            raise ArgumentError("kinds", f"{len(self.kinds)}, some of them twice", "distinct kinds of rounds")
        for name in ("forgotten", "retained"):
            profiles: tuple[Profile, ...] = getattr(self, name)
            if not profiles or any(len(profile) != len(self.kinds) for profile in profiles):
                raise ArgumentError(name, f"{len(profiles)} profiles", f"profiles of {len(self.kinds)} counts each")
            if any(count < 0 for profile in profiles for count in profile):
                raise ArgumentError(name, "a negative count", "counts of at least 0")

    @classmethod
    def of(
        cls,
        rounds: Iterable[tuple[RoundKind, Collection[str]]],
        *,
        forgotten: Collection[str],
        retained: Collection[str],
    ) -> Accounts:
        """Add up rounds.

        Args:
            rounds: each with the clients that it charged.
            forgotten: clients that hold, or may hold, units to be forgotten; all clients where nobody is to learn who
                asked.
            retained: clients that may hold others.

        Raises:
            ArgumentError: there is no client.
        """
        counts: dict[str, Counter[RoundKind]] = {name: Counter() for name in {*forgotten, *retained}}
        seen: dict[RoundKind, None] = {}
        for kind, charged in rounds:
            seen.setdefault(kind)
            for name in charged:
                if name in counts:
                    counts[name][kind] += 1
        kinds = tuple(sorted(seen, key=_order))

        def profiles(names: Collection[str]) -> tuple[Profile, ...]:
            return _largest({tuple(counts[name][kind] for kind in kinds) for name in names})

        return cls(kinds=kinds, forgotten=profiles(forgotten), retained=profiles(retained))

    def to_json(self) -> list[dict[str, Any]]:
        """As a certificate carries them: for each kind its counts, a column for each profile."""
        return [
            {
                **kind.to_json(),
                "counts": {
                    "forgotten": [profile[place] for profile in self.forgotten],
                    "retained": [profile[place] for profile in self.retained],
                },
            }
            for place, kind in enumerate(self.kinds)
        ]

    @classmethod
    def from_json(cls, values: Sequence[Mapping[str, Any]]) -> Accounts:
        """What :meth:`to_json` made.

        Raises:
            ArgumentError, ValueError: it is none; see :class:`RoundKind`.
        """
        columns: dict[str, tuple[Profile, ...]] = dict.fromkeys(("forgotten", "retained"), ((),))
        for name in columns if values else ():
            columns[name] = tuple(zip(*(value["counts"][name] for value in values), strict=True))
        return cls(kinds=tuple(RoundKind.from_json(value) for value in values), **columns)

    # Figures, each the largest over profiles

    def confidentiality(self, *, delta: float, group_size: int) -> dict[str, float | None]:
        """How well the deletion itself is hidden; see :mod:`secure_fu.privacy.confidentiality`.

        Returns:
            for each of `phase`, `pair` and `who_asked` its epsilon, None where there is no finite bound.
        """
        how = {figure: partial(self._hidden, figure, delta, group_size) for figure in _FIGURES}
        return {figure: self._worst(self.forgotten, value) for figure, value in how.items()}

    def _hidden(self, figure: str, delta: float, group_size: int, profile: Profile) -> float:
        own = [(kind, count) for kind, count in self._of(profile) if kind.part is Part.DELETION]
        if figure == "who_asked":
            sums: Counter[ExchangedSum] = Counter()
            for kind, count in own:
                if kind.forgotten is not None or kind.retained is not None:
                    sums[ExchangedSum(left=kind.forgotten, stayed=kind.retained)] += count
            return exchange_epsilon(sums, delta=delta, group_size=group_size)
        events = _events((kind.forgotten, count) for kind, count in own)
        if figure == "pair":
            events += self._earlier(profile, Phase.BOTH)
        return renyi_epsilon(events, delta=delta, group_size=group_size)

    def _earlier(self, profile: Profile, phase: Phase) -> Counter[GaussianSumEvent]:
        """What retained units paid on the line, before the deletion."""
        return _events(
            (kind.retained, count)
            for kind, count in self._of(profile)
            if kind.part in (Part.BASIS, Part.BEFORE) and phase in (kind.phase, Phase.BOTH)
        )

    def epsilon(self, subject: Subject, phase: Phase, *, delta: float, group_size: int) -> float | None:
        """An entry of the epsilon list; None where there is no finite bound."""

        def value(profile: Profile) -> float:
            events = self._earlier(profile, phase) + _events(
                (kind.forgotten if subject is Subject.FORGOTTEN else kind.retained, count)
                for kind, count in self._of(profile)
                if kind.part is Part.DELETION and phase in (kind.phase, Phase.BOTH)
            )
            return renyi_epsilon(events, delta=delta, group_size=group_size)

        return self._worst(self.forgotten if subject is Subject.FORGOTTEN else self.retained, value)

    def forgetting(self, counted: Counted, *, delta: float, group_size: int) -> float | None:
        """Epsilon of a certified guarantee: what the units had paid for all that the outcome may depend on."""

        def value(profile: Profile) -> float:
            if counted is Counted.BASIS:
                charges = ((kind.retained, count) for kind, count in self._of(profile) if kind.part is Part.BASIS)
            else:
                charges = ((kind.larger, count) for kind, count in self._of(profile) if kind.part is not Part.DELETION)
            return renyi_epsilon(_events(charges), delta=delta, group_size=group_size)

        return self._worst(self.forgotten, value)

    # Comparison

    def rounds(self, *, part: Part, released: bool = True) -> int:
        """Most rounds of a part that a client was charged for."""
        places = [i for i, kind in enumerate(self.kinds) if kind.part is part and kind.released is released]
        return max(sum(profile[i] for i in places) for profile in (*self.forgotten, *self.retained))

    @property
    def released(self) -> Accounts:
        """The same without the rounds that have no release."""
        return self._only(lambda kind: kind.released)

    @property
    def charged(self) -> Accounts:
        """The same without the difference between rounds that were released and others: a ledger may not know it."""
        kinds = tuple(dict.fromkeys(replace(kind, released=True) for kind in self.kinds))
        places = [kinds.index(replace(kind, released=True)) for kind in self.kinds]

        def profiles(of: tuple[Profile, ...]) -> tuple[Profile, ...]:
            return tuple(
                tuple(
                    sum(count for count, there in zip(profile, places, strict=True) if there == place)
                    for place in range(len(kinds))
                )
                for profile in of
            )

        return Accounts(kinds=kinds, forgotten=profiles(self.forgotten), retained=profiles(self.retained))

    @property
    def own(self) -> Accounts:
        """The rounds of the deletion alone."""
        return self._only(lambda kind: kind.part is Part.DELETION)

    def _only(self, wanted: Callable[[RoundKind], bool]) -> Accounts:
        places = [place for place, kind in enumerate(self.kinds) if wanted(kind)]

        def profiles(of: tuple[Profile, ...]) -> tuple[Profile, ...]:
            return _largest({tuple(profile[place] for place in places) for profile in of})

        kinds = tuple(self.kinds[place] for place in places)
        return Accounts(kinds=kinds, forgotten=profiles(self.forgotten), retained=profiles(self.retained))

    def difference(self, other: Accounts) -> str | None:
        """What these charge otherwise than `other`, which was added up anew; None where they agree."""
        for kind in sorted({*self.kinds, *other.kinds}, key=_order):
            for name in ("forgotten", "retained"):
                here, there = self._most(kind, name), other._most(kind, name)
                if here != there:
                    return (
                        f"{here} rounds of part {kind.part.value!r} and phase {kind.phase.value!r} for {name} units, "
                        f"at noise multiplier {_shown(kind, 'noise_multiplier')} and sampling rate "
                        f"{_shown(kind, 'sampling_rate')}, where there are {there}"
                    )
        for name in ("forgotten", "retained"):
            mine: list[Profile] = [self._aligned(profile, other.kinds) for profile in getattr(self, name)]
            theirs: tuple[Profile, ...] = getattr(other, name)
            if not all(any(_exceeds(own, profile) for own in mine) for profile in theirs):
                return f"fewer rounds together than some client was charged for, of those with {name} units"
            # One profile that exceeds all others stands for many clients: its figures are larger than they need be.
            if len(mine) > 1 and not all(any(_exceeds(profile, own) for profile in theirs) for own in mine):
                return f"more rounds together than any client was charged for, of those with {name} units"
        return None

    def covers(self, other: Accounts) -> bool:
        """Whether each profile of `other` is exceeded by one of these: all figures are then at least those of it."""
        return all(
            any(_exceeds(self._aligned(mine, kinds), other._aligned(profile, kinds)) for mine in ours)
            for kinds in [tuple({*self.kinds, *other.kinds})]
            for ours, theirs in ((self.forgotten, other.forgotten), (self.retained, other.retained))
            for profile in theirs
        )

    def _most(self, kind: RoundKind, name: str) -> int:
        if kind not in self.kinds:
            return 0
        place, profiles = self.kinds.index(kind), self.forgotten if name == "forgotten" else self.retained
        return max(profile[place] for profile in profiles)

    def _aligned(self, profile: Profile, kinds: tuple[RoundKind, ...]) -> Profile:
        found = dict(zip(self.kinds, profile, strict=True))
        return tuple(found.get(kind, 0) for kind in kinds)

    def _of(self, profile: Profile) -> list[tuple[RoundKind, int]]:
        return [(kind, count) for kind, count in zip(self.kinds, profile, strict=True) if count]

    def _worst(self, profiles: tuple[Profile, ...], value: Callable[[Profile], float]) -> float | None:
        largest = max(value(profile) for profile in profiles)
        return largest if math.isfinite(largest) else None


def part_of(
    event_branch: str, round_number: int, phase: Phase, *, branch: str, line: Collection[str], basis: Lineage
) -> Part:
    """Which part of a deletion's story a round belongs to.

    Args:
        event_branch, round_number, phase: of the round.
        branch: that the deletion ran in.
        line: the branches that it comes from.
        basis: the branches and their last rounds that the state comes from which the deletion began with.
    """
    if event_branch == branch and phase is Phase.UNLEARNING:
        return Part.DELETION
    if event_branch != branch and event_branch not in line:
        return Part.BESIDE
    return Part.BASIS if round_number <= dict(basis).get(event_branch, -1) else Part.BEFORE


def ledger_rounds(
    ledger: PrivacyLedger, branch: str, *, basis: Lineage, until: int, unreleased: Collection[tuple[str, int]] = ()
) -> Iterator[tuple[RoundKind, tuple[str, ...]]]:
    """The rounds that a ledger has charged up to a deletion's end, each with whom it charged.

    Args:
        branch: that the deletion ran in.
        basis: see :func:`part_of`.
        until: number of the last event that counts.
        unreleased: rounds, by branch and number, that the ledger has as committed and that came to nothing: their roll
            had left when the server gave them up, see :meth:`~secure_fu.protocol.server.RoundServer.forfeit`.

    Raises:
        ArgumentError: there is no such branch.
    """
    if branch not in ledger.branches:
        raise ArgumentError("branch", branch, f"one of the ledger's branches, {sorted(ledger.branches)}")
    line: list[str] = []
    parent = ledger.branches[branch]
    while parent is not None:
        line.append(parent)
        parent = ledger.branches[parent]
    for event in ledger.events():
        if event.event_id <= until and event.charged:
            lost = (event.branch, event.round_number) in unreleased
            yield _kind(event, branch, line, basis, lost=lost), event.charged


def _kind(event: LedgerEvent, branch: str, line: Collection[str], basis: Lineage, *, lost: bool) -> RoundKind:
    return RoundKind(
        part=part_of(event.branch, event.round_number, event.phase, branch=branch, line=line, basis=basis),
        phase=event.phase,
        released=event.participants is not None and not lost,
        forgotten=event.charges[Subject.FORGOTTEN],
        retained=event.charges[Subject.RETAINED],
    )


def _events(charges: Iterable[tuple[GaussianSumEvent | None, int]]) -> Counter[GaussianSumEvent]:
    events: Counter[GaussianSumEvent] = Counter()
    for charge, count in charges:
        if charge is not None:
            events[charge] += count
    return events


def _largest(profiles: Collection[Profile]) -> tuple[Profile, ...]:
    """Those that no other exceeds; where they are many, one that exceeds them all: the figures can only grow."""
    if not profiles:
        raise ArgumentError("clients", (), "at least one client")
    kept: list[Profile] = []
    for profile in sorted(profiles, reverse=True):  # one that exceeds another comes before it
        if not any(_exceeds(other, profile) for other in kept):
            kept.append(profile)
        if len(kept) > _MOST_PROFILES:
            return (tuple(map(max, zip(*profiles, strict=True))),)
    return tuple(kept)


def _exceeds(one: Profile, other: Profile) -> bool:
    return all(here >= there for here, there in zip(one, other, strict=True))


def _order(kind: RoundKind) -> tuple[object, ...]:
    parts = tuple(Part)
    charges = (repr(kind.forgotten), repr(kind.retained))
    return (parts.index(kind.part), kind.phase.value, not kind.released, *charges)


def _plain(event: GaussianSumEvent | None) -> dict[str, float | int] | None:
    return None if event is None else {item.name: getattr(event, item.name) for item in fields(event)}


def _shown(kind: RoundKind, name: str) -> str:
    event = kind.larger
    return "none" if event is None else f"{getattr(event, name):g}"
