"""Numbers as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence

from secure_fu.report.result import EpsilonClaim, Interval, Row

__all__ = [
    "MISSING",
    "byte_count",
    "clients_in_words",
    "count",
    "decimal",
    "duration",
    "headline_epsilon",
    "interval",
    "join_words",
    "percent",
    "points",
    "signed",
    "signed_points",
]

MISSING = "–"
_NBSP = "\u00a0"  # between a figure and its unit, which belong on one line

# A row's own figure, in this order of preference: all that was released before and after, else the one phase there was.
_PHASES = ("training+unlearning", "training", "unlearning")


def percent(fraction: float | None, *, unit: str = f"{_NBSP}%") -> str:
    """A fraction as a percentage with one decimal: 0.923 is "92.3 %"."""
    return MISSING if fraction is None else f"{100 * fraction:.1f}{unit}"


def points(difference: float) -> str:
    """A difference of two fractions in percentage points, without its sign: 0.031 is "3.1 points"."""
    return f"{100 * abs(difference):.1f}{_NBSP}points"


def signed_points(difference: float | None) -> str:
    """A difference of two fractions in percentage points, with its sign: "+3.1 points"."""
    return MISSING if difference is None else f"{100 * difference:+.1f}{_NBSP}points"


def decimal(value: float | None, digits: int = 2) -> str:
    """A number with fixed decimals."""
    return MISSING if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """A number with its sign and fixed decimals; what rounds to zero has none: "+0.03", "0.00"."""
    if value is None:
        return MISSING
    written = f"{value:+.{digits}f}"
    return written[1:] if float(written) == 0 else written


def interval(figure: Interval | None) -> str:
    """A figure and its confidence interval: "0.52 (0.47 to 0.57)"."""
    return MISSING if figure is None else f"{figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f})"


def count(number: int | None) -> str:
    """An integer with thousands separated by commas."""
    return MISSING if number is None else f"{number:,}"


def byte_count(size: float) -> str:
    """A size in decimal units with three significant digits at most: 62000 is "62 kB"."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f}{_NBSP}{units[0]}" if units[0] == "B" or size >= 99.5 else f"{size:.3g}{_NBSP}{units[0]}"


def duration(seconds: float) -> str:
    """A duration: "8.1 s", "2 min 5 s", "1 h 3 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f}{_NBSP}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}{_NBSP}min {whole % 60}{_NBSP}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{_NBSP}h {minutes % 60}{_NBSP}min"


def join_words(words: Sequence[str], conjunction: str = "and") -> str:
    """An English list: "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {conjunction} {words[-1]}"


def clients_in_words(names: tuple[str, ...]) -> str:
    """Up to three clients by name, more as a number."""
    return join_words(names) if len(names) <= 3 else f"{len(names):,} clients"


def headline_epsilon(row: Row, subject: str) -> EpsilonClaim | None:
    """The one figure that stands for a row: of one unit, over the longest phase, from the view of every release."""
    claims = [claim for claim in row.epsilon if claim.subject == subject and claim.group_size == 1]
    claims.sort(
        key=lambda claim: (
            claim.view != "every release",
            _PHASES.index(claim.phase) if claim.phase in _PHASES else len(_PHASES),
        )
    )
    return claims[0] if claims else None
