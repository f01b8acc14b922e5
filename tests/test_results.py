"""Rows are collected as they come, and a result can be written at any time."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secure_fu.config import SimulationConfig
from secure_fu.config_file import load_preset, with_overrides
from secure_fu.evaluation import Evaluator
from secure_fu.federation import Federation
from secure_fu.report import SCHEMA, validate_result
from secure_fu.results import ResultBuilder
from secure_fu.scenario import Scenario, build_scenario
from secure_fu.simulation import plan_of
from secure_fu.unlearning import Certified, Retrain, Scratch

CONFIG = with_overrides(
    load_preset("breast-cancer-silos"),
    ["data.clients=3", "data.records=30", "protocol.minimum_cohort=3", "training.rounds=1", "deletion.count=2"],
)


class Stage:
    """A trained federation with an empty result."""

    def __init__(self, config: SimulationConfig, *, insecure_deterministic: bool = False) -> None:
        self.scenario: Scenario = build_scenario(config)
        self.federation = Federation(
            self.scenario.module, self.scenario.clients, plan=plan_of(config, self.scenario), scheme_name="plain"
        )
        self.state = self.federation.train()
        self.builder = ResultBuilder(
            config=config,
            scenario=self.scenario,
            federation=self.federation,
            evaluator=Evaluator(self.scenario, self.federation.model),
            insecure_deterministic=insecure_deterministic,
        )

    def add_original(self) -> None:
        self.builder.add_point("original", 0, 0.5, None)
        self.builder.add_original(self.state, seconds=1.5)

    def result(self, *, complete: bool = True) -> dict[str, Any]:
        result = dict(self.builder.to_dict(complete=complete))
        json.dumps(result, allow_nan=False)
        validate_result(result)
        return result


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage(CONFIG)
    with made.federation:
        yield made


def test_a_result_without_rows_is_valid_and_incomplete(stage: Stage) -> None:
    result = stage.result(complete=False)
    assert (result["schema"], result["complete"], result["rows"], result["curves"]) == (SCHEMA, False, [], {})
    assert result["traffic"] == {"per_round": []}
    assert list(result["timing"]) == ["total"]


def test_a_row_that_is_under_way_is_left_out(stage: Stage) -> None:
    stage.add_original()
    stage.builder.add_point("retrained", 0, 0.5, None)
    result = stage.result(complete=False)
    assert [row["name"] for row in result["rows"]] == list(result["curves"]) == list(result["membership"])
    assert result["rows"][0]["membership_auc_distance"] is None
    assert result["rows"][0]["gap_to_retrained"] is None


def test_rows_carry_what_they_were_given(stage: Stage) -> None:
    stage.add_original()
    retrained = stage.federation.unlearn(stage.scenario.request, Retrain(), adaptive=False)
    stage.builder.add_point("retrained", 0, 0.5, None)
    stage.builder.add_unlearned("retrained", "Retrained", retrained)
    result = stage.result()
    original, again = result["rows"]
    assert (original["title"], original["guarantee"], original["seconds"]) == ("Original", "none", 1.5)
    assert (again["title"], again["guarantee"], again["seconds"]) == ("Retrained", "exact", retrained.seconds)
    assert again["guarantee_text"] == retrained.guarantee.describe()
    assert again["membership_auc_distance"] == 0.0
    assert again["upload_bytes_per_client"] == sum(entry.upload_bytes for entry in retrained.traffic)
    assert again["membership_n"] == {"members": 2, "non_members": 114}
    assert again["membership_tpr_at_1pct_fpr"] is None
    assert again["backdoor_success"] is None


@pytest.mark.parametrize(("epsilon", "stated"), [(2.5, True), (None, False)])
def test_a_certificate_is_stated_when_it_has_a_number(stage: Stage, epsilon: float | None, stated: bool) -> None:
    stage.add_original()
    certified = Certified(epsilon=epsilon, delta=1e-5, group_size=2, reason="because", assumptions=("none",))
    unlearned = replace(
        stage.federation.unlearn(stage.scenario.request, Scratch(length=1), adaptive=False), guarantee=certified
    )
    stage.builder.add_point("rollback", 0, 0.5, None)
    stage.builder.add_unlearned("rollback", "Rollback", unlearned)
    row = stage.result(complete=False)["rows"][1]
    assert row["guarantee"] == "certified"
    assert row["certificate"] == (
        {"epsilon": 2.5, "delta": 1e-5, "group_size": 2, "view": "every release"} if stated else None
    )


def test_what_a_run_was_made_with_is_written_down(stage: Stage) -> None:
    result = stage.result(complete=False)
    recipe = stage.federation.recipe
    assert result["config"] == CONFIG.to_dict()
    assert result["privacy"] | {"accountant": ""} == {
        "delta": 1e-5,
        "budget_epsilon": 8.0,
        "noise_multiplier": recipe.noise_multiplier,
        "clip_norm": 1.0,
        "sampling_rate": 0.25,
        "unit": "record",
        "minimum_cohort": 3,
        "colluders": 1,
        "assured": 2,
        "accountant": "",
    }
    assert f"order {stage.federation.budget.order:g}" in result["privacy"]["accountant"]
    assert result["software"]["torch"] == importlib.metadata.version("torch")
    assert {"python", "secure_fu", "tenseal", "opacus"} <= set(result["software"])
    assert result["scenario"]["joined_at_round"] is None
    assert result["scenario"]["request"] == "2 records of client clinic-02 are to be forgotten"


@pytest.mark.parametrize("deterministic", [False, True])
def test_each_reason_for_being_insecure_is_given(deterministic: bool) -> None:
    stage = Stage(CONFIG, insecure_deterministic=deterministic)
    with stage.federation:
        reasons = stage.result(complete=False)["insecure"]
    assert [reason.split(":")[0] for reason in reasons] == (
        ["--scheme plain", "--insecure-deterministic"] if deterministic else ["--scheme plain"]
    )


def test_writing_a_result_changes_nothing(stage: Stage, tmp_path: Path) -> None:
    stage.add_original()
    first, second = (stage.result(complete=False) for _ in range(2))
    assert {**first, "timing": None} == {**second, "timing": None}
    assert first["timing"]["total"] <= second["timing"]["total"]
