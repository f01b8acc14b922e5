"""The example's federation: four nodes, each with a clinic and a member of the committee."""

from __future__ import annotations

from pathlib import Path

APP = Path(__file__).resolve().parents[2] / "examples" / "flower"
CLINICS = {f"node-{number}": (f"clinic-{number}", f"member-{number}") for number in range(1, 5)}
