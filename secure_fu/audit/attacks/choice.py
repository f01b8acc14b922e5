"""Which attack to believe most, by how many shadow models there are."""

from __future__ import annotations

from typing import Final

from secure_fu.errors import ArgumentError

__all__ = ["ENOUGH_FOR_LIRA", "choose_attack"]

ENOUGH_FOR_LIRA: Final = 8


def choose_attack(shadows: int, *, online: bool = True) -> str:
    """The name of the attack that an audit's figures are about, fixed before any score is seen.

    Without shadow models the loss. With fewer than eight RMIA, which estimates one number a record; from eight on
    online LiRA, which knows what each record does to a model. Offline RMIA for any number. Measured in
    ``benchmarks/audit_attacks.py``: where models know their records by heart, LiRA finds the more members the more
    shadow models there are; where they memorise little, RMIA is ahead up to sixteen. An audit runs both.

    Args:
        shadows: how many shadow models there are, >= 0.
        online: whether half of them were trained with each record.

    Raises:
        ArgumentError: the number is negative.
    """
    if shadows < 0:
        raise ArgumentError("shadows", shadows, "a number of shadow models >= 0")
    if shadows == 0:
        return "loss"
    return "lira_online" if online and shadows >= ENOUGH_FOR_LIRA else "rmia"
