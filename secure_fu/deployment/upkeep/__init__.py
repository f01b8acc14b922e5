"""What operators do after the founding: copies of a server, changed rosters, new epochs."""

from __future__ import annotations

from secure_fu.deployment.upkeep.backup import Evidence, back_up, restore, seen
from secure_fu.deployment.upkeep.epochs import begin_epoch
from secure_fu.deployment.upkeep.roster_changes import changed_roster, difference, pin

__all__ = ["Evidence", "back_up", "begin_epoch", "changed_roster", "difference", "pin", "restore", "seen"]
