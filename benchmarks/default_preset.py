"""The default preset over ten seeds, encrypted: each row's figures with spread and its gap to retraining, by seed.

Seeds 0 to 9; settings were chosen on other seeds. Noise and keys are fresh each time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from harness import arguments, report

from secure_fu.config_file import load_preset, with_overrides
from secure_fu.privacy import mean_interval, paired_gap_interval
from secure_fu.simulation import Simulation

LEVEL = 0.90
QUICK = ("training.rounds=20", "deletion.joined_at=12")


def main() -> None:
    options = arguments(__doc__)
    seeds = range(2 if options.quick else 10)
    results = []
    for seed in seeds:
        config = with_overrides(load_preset("digits-silos"), [f"seed={seed}", *(QUICK if options.quick else ())])
        with tempfile.TemporaryDirectory() as folder:
            results.append(Simulation(config, Path(folder) / "run").run())
        print(f"seed {seed}: {_line(results[-1])}", flush=True)
    report(options, {"seeds": list(seeds), "level": LEVEL, "rows": _summary(results)})


def _rows(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in result["rows"]}


def _line(result: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {row['test_accuracy']:.3f}/{row['backdoor_success']:.3f}" for name, row in _rows(result).items()
    )


def _summary(results: list[dict[str, Any]]) -> dict[str, object]:
    tables = [_rows(result) for result in results]
    summary: dict[str, object] = {}
    for name in tables[0]:
        figures: dict[str, object] = {
            "guarantee": tables[0][name]["guarantee"],
            "rounds": tables[0][name]["rounds"],
            "largest epsilon": max(entry["value"] for table in tables for entry in table[name]["epsilon"]),
        }
        for key in ("test_accuracy", "backdoor_success"):
            values = [table[name][key] for table in tables]
            reference = [table["retrained"][key] for table in tables]
            figures[key] = {"each": values, **mean_interval(values, level=LEVEL).to_json()}
            if name not in ("original", "retrained"):
                figures[f"{key} minus retrained"] = paired_gap_interval(values, reference, level=LEVEL).to_json()
        figures["membership_auc"] = mean_interval(
            [table[name]["membership_auc"]["value"] for table in tables], level=LEVEL
        ).to_json()
        summary[name] = figures
    return summary


if __name__ == "__main__":
    main()
