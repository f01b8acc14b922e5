"""One colour, marker and hatch for each method through every picture.

The colours are those of Okabe and Ito (2008, "Color Universal Design"), told apart with every common form of colour
blindness; markers and direct labels carry the same information without colour.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["GRID", "INK", "MUTED", "WARNING", "MethodStyle", "method_styles"]

INK = "#1f2328"
MUTED = "#636c76"
GRID = "#d8dee4"
WARNING = "#b3261e"


@dataclass(frozen=True)
class MethodStyle:
    """How a method is drawn."""

    colour: str
    marker: str


_STYLES = {
    "original": MethodStyle("#000000", "o"),
    "retrained": MethodStyle("#0072b2", "s"),
    "rollback": MethodStyle("#009e73", "D"),
    "scrub": MethodStyle("#d55e00", "^"),
    "correction": MethodStyle("#cc79a7", "v"),
    "finetune": MethodStyle("#e69f00", "P"),
    "scratch": MethodStyle("#56b4e9", "X"),
}
# For methods without a colour of their own: yellow, darkened to be seen on white, and greys.
_OTHERS = (
    MethodStyle("#a89c00", "<"),
    MethodStyle("#7f7f7f", ">"),
    MethodStyle("#4d4d4d", "p"),
    MethodStyle("#b0b0b0", "h"),
)


def method_styles(names: Iterable[str]) -> dict[str, MethodStyle]:
    """A style for each name: its own where it has one, else the next of the others, in order of appearance."""
    styles: dict[str, MethodStyle] = {}
    unknown = 0
    for name in names:
        if name in _STYLES:
            styles[name] = _STYLES[name]
        elif name not in styles:
            styles[name] = _OTHERS[unknown % len(_OTHERS)]
            unknown += 1
    return styles
