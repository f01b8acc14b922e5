"""Runs by seed, insecure ones, and runs that meet accidents, are interrupted or cannot begin."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from small_runs import Recorder, leftovers, links, read_json, small

from secure_fu.config_file import with_overrides
from secure_fu.errors import (
    BudgetExceededError,
    CohortTooSmall,
    ConfigError,
    RoundAborted,
    SecureFUError,
    UnattainableEpsilonError,
)
from secure_fu.privacy import EventStatus, PrivacyLedger
from secure_fu.protocol import read_policy
from secure_fu.report import validate_result
from secure_fu.scenario import build_scenario
from secure_fu.simulation import Simulation, plan_of

# Seeds, noise, and what is insecure


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures out where nobody looks at them."""
    monkeypatch.setattr("secure_fu.simulation.write_report", lambda _result, directory: directory / "report.html")


SEED_METHODS = 'unlearning.methods=["scrub", "correction"]'
SHORT = ("unlearning.settings.scrub.length=2", "unlearning.settings.correction.length=1")


def scores(result: dict[str, Any]) -> dict[str, Any]:
    """All of a result but the clock; ciphertexts of scheme `kahe` have one size, whatever their keys."""
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in result["rows"]]
    return {**result, "rows": rows, "created": None, "timing": None}


def test_deterministic_runs_are_equal_bit_by_bit_and_insecure(tmp_path: Path) -> None:
    config = small(SEED_METHODS, *SHORT)
    results = [Simulation(config, tmp_path / name, insecure_deterministic=True).run() for name in ("first", "second")]
    assert scores(dict(results[0])) == scores(dict(results[1]))
    for row in ("original", "retrained", "scrub", "correction"):
        first, second = (
            (tmp_path / name / "models" / f"{row}.safetensors").read_bytes() for name in ("first", "second")
        )
        assert first == second
    assert "--insecure-deterministic" in results[0]["insecure"][0]  # type: ignore[index]
    assert "INSECURE" in (tmp_path / "first" / "report.html").read_text(encoding="utf-8")
    validate_result(results[0])


@pytest.mark.usefixtures("quick")
def test_a_seed_fixes_the_scenario_and_never_the_noise(tmp_path: Path) -> None:
    results = [dict(Simulation(small(), tmp_path / name).run()) for name in ("first", "second")]
    assert results[0]["insecure"] == []
    assert results[0]["scenario"] == results[1]["scenario"]
    # the same public start, other sums
    first, second = (links(tmp_path / name) for name in ("first", "second"))
    assert first[0]["model"] == second[0]["model"]
    assert not {link["sum"] for link in first} & {link["sum"] for link in second}
    for row in ("original", "retrained"):
        models = [load_file(tmp_path / name / "models" / f"{row}.safetensors") for name in ("first", "second")]
        apart = max(float((models[0][key] - models[1][key]).abs().max()) for key in models[0])
        assert apart > 1e-3
    assert len({link["sum"] for link in first}) == len(first)


@pytest.mark.usefixtures("quick")
def test_a_key_holder_may_take_the_place_of_the_committee(tmp_path: Path) -> None:
    result = dict(Simulation(small("protocol.scheme=bfv"), tmp_path / "run").run())
    assert result["scheme"]["name"] == "bfv"
    assert result["scheme"]["secure"] is True
    assert "honest but curious" in result["scheme"]["trust"]
    assert result["insecure"] == []
    assert (tmp_path / "run" / "key_holder.sqlite").is_file()
    assert not (tmp_path / "run" / "committee.sqlite").exists()
    assert {tuple(link["approvals"]) for link in links(tmp_path / "run")} == {("key-holder",)}


def test_the_plain_scheme_says_that_it_is_insecure(tmp_path: Path) -> None:
    result = dict(Simulation(small("protocol.scheme=plain"), tmp_path / "run").run())
    assert result["scheme"]["secure"] is False
    assert "--scheme plain" in result["insecure"][0]
    assert result["scheme"]["trust"].startswith("None.")
    assert "INSECURE" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


# Accidents


@pytest.mark.usefixtures("quick")
def test_clients_that_drop_out_do_not_stop_a_run(tmp_path: Path) -> None:
    config = small("data.clients=6", "protocol.dropout=0.2", "training.rounds=4")
    result = dict(Simulation(config, tmp_path / "run").run())
    uploads = [entry["uploads"] for entry in result["traffic"]["per_round"]]
    assert len(uploads) == 8
    assert 3 <= min(uploads) < max(uploads) <= 6
    validate_result(result)
    # who was not in the sum has not paid for it
    with PrivacyLedger.open(tmp_path / "run" / "ledger.sqlite", read_only=True) as ledger:
        for event in ledger.events("original"):
            assert event.participants is not None
            assert set(event.participants) <= set(event.cohort)
        assert [len(event.participants or ()) for event in ledger.events("original")] == uploads[:4]


@pytest.mark.usefixtures("quick")
def test_members_that_are_away_do_not_stop_a_run(tmp_path: Path) -> None:
    settings = ("members=8", "corrupt=1", "threshold=2", "quorum=5", "member_dropout=0.2")
    config = small(*(f"protocol.{setting}" for setting in settings), "training.rounds=4")
    result = dict(Simulation(config, tmp_path / "run").run())
    validate_result(result)
    assert "1 of the 8 members" in result["scheme"]["trust"]
    approvals = [len(link["approvals"]) for link in links(tmp_path / "run")]
    assert len(approvals) == 8
    assert 5 <= min(approvals) < max(approvals) <= 8


@pytest.mark.usefixtures("quick")
def test_a_round_that_the_committee_does_not_open_ends_the_run_and_is_paid_for(tmp_path: Path) -> None:
    with pytest.raises(RoundAborted, match="members voted; a quorum is 7") as caught:
        Simulation(small("protocol.member_dropout=0.9"), tmp_path / "run").run()
    assert not isinstance(caught.value, CohortTooSmall)
    assert caught.value.__notes__ == [f"what was done is in {tmp_path / 'run'}, marked incomplete"]
    assert read_json(tmp_path / "run")["complete"] is False
    with PrivacyLedger.open(tmp_path / "run" / "ledger.sqlite", read_only=True) as ledger:
        (event,) = ledger.events()
        assert event.status is EventStatus.COMMITTED
        assert event.participants == ("silo-00", "silo-01", "silo-02", "silo-03")
    assert leftovers(tmp_path / "run") == []


@pytest.mark.usefixtures("quick")
def test_a_run_on_the_rotated_grid(tmp_path: Path) -> None:
    config = small(
        *("training.unit=client", "training.sampling_rate=1.0", "protocol.grid=rotated", "protocol.sum_bits=14"),
        *("deletion.backdoor=false", "data.records=400", "model.kind=mlp", "model.hidden=[128]"),
    )
    result = dict(Simulation(config, tmp_path / "run").run())
    validate_result(result)
    assert read_policy(tmp_path / "run" / "policy.toml").grids == {"rotated"}
    assert max(entry["value"] for row in result["rows"] for entry in row["epsilon"]) <= 8.0
    finer = with_overrides(config, ["protocol.grid=fine"])
    upload = result["traffic"]["per_round"][0]["upload_bytes_per_client"]
    fine = dict(Simulation(finer, tmp_path / "finer").run())
    assert upload < fine["traffic"]["per_round"][0]["upload_bytes_per_client"], "that is what it is for"


@pytest.mark.usefixtures("quick")
def test_too_many_dropouts_end_the_run_after_its_retries(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    simulation = Simulation(small("protocol.dropout=0.95"), tmp_path / "run")
    with pytest.raises(RoundAborted, match=r"uploads?, fewer than the minimum cohort of 3") as caught:
        simulation.run()
    assert isinstance(caught.value, CohortTooSmall)
    assert caught.value.__notes__ == [f"what was done is in {tmp_path / 'run'}, marked incomplete"]
    assert sum("asking again" in message for message in caplog.messages) == 2
    result = read_json(tmp_path / "run")
    validate_result(result)
    assert (result["complete"], result["rows"]) == (False, [])
    with PrivacyLedger.open(tmp_path / "run" / "ledger.sqlite", read_only=True) as ledger:
        assert [event.status for event in ledger.events()] == [EventStatus.VOID] * 3
        assert ledger.rounds("original") == ()
    assert leftovers(tmp_path / "run") == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("phase", "rows", "released"),
    [
        ("training", [], {"original": 1}),
        ("retrained from scratch", ["original"], {"original": 2, "unlearn/retrain": 1}),
        ("writing the report", ["original", "retrained"], {"original": 2, "unlearn/retrain": 2}),
    ],
)
def test_an_interrupted_run_says_so_and_keeps_what_was_done(
    phase: str, rows: list[str], released: dict[str, int], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt) as caught:
        Simulation(small("protocol.scheme=plain"), out, progress=Recorder(stop_in=phase)).run()
    assert caught.value.__notes__ == [f"what was done is in {out}, marked incomplete"]
    result = read_json(out)
    validate_result(result)
    assert result["complete"] is False
    assert [row["name"] for row in result["rows"]] == list(result["curves"]) == list(result["membership"]) == rows
    assert {path.stem for path in (out / "models").iterdir()} == set(rows)
    with PrivacyLedger.open(out / "ledger.sqlite", read_only=True) as ledger:
        assert {branch: len(ledger.rounds(branch)) for branch in ledger.branches} == released
        assert ledger.pending() == ()
    assert len(links(out)) == sum(released.values())
    assert leftovers(out) == []


@pytest.mark.usefixtures("quick")
def test_a_method_beyond_the_budget_ends_the_run_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a plan that does not know of the ten rounds of fine-tuning
    monkeypatch.setattr("secure_fu.simulation._longest_branch", lambda config: config.training.rounds)
    config = small('unlearning.methods=["finetune"]', "protocol.scheme=plain")
    with pytest.raises(BudgetExceededError, match="unlearn/finetune"):
        Simulation(config, tmp_path / "run").run()
    result = read_json(tmp_path / "run")
    validate_result(result)
    assert (result["complete"], [row["name"] for row in result["rows"]]) == (False, ["original", "retrained"])
    with PrivacyLedger.open(tmp_path / "run" / "ledger.sqlite", read_only=True) as ledger:
        assert len(ledger.rounds("unlearn/finetune")) == 4  # two of six planned for, of which two are spare
        assert ledger.pending() == ()


@pytest.mark.usefixtures("quick")
def test_a_short_training_pays_for_longer_methods(tmp_path: Path) -> None:
    """Ten rounds of fine-tuning after two of training: the noise is planned for the longest branch."""
    config = small('unlearning.methods=["finetune"]', "protocol.scheme=plain")
    result = dict(Simulation(config, tmp_path / "run").run())
    assert [row["rounds"] for row in result["rows"]] == [2, 2, 10]
    assert max(entry["value"] for row in result["rows"] for entry in row["epsilon"]) <= 8.0


# What is refused before anything runs


@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        (["privacy.noise_multiplier=0.1"], BudgetExceededError, "noise_multiplier is 0.1; expected at least"),
        (["privacy.epsilon=1e-4"], UnattainableEpsilonError, "epsilon 0.0001 at delta 1e-05 is out of reach"),
        (['unlearning.methods=["scrb"]'], ConfigError, "did you mean 'scrub'"),
        (["unlearning.settings.scrb.length=3"], ConfigError, "did you mean 'scrub'"),
        (["unlearning.settings.correction.lenght=3"], ConfigError, "unlearning.settings.correction.lenght is 3"),
        (
            ['unlearning.methods=["scrub"]', "unlearning.settings.scrub.lenght=3"],
            ConfigError,
            "unlearning.settings.scrub.lenght is 3; expected a setting among length,",
        ),
        (
            ['unlearning.methods=["scrub"]', "unlearning.settings.scrub.length=0"],
            ConfigError,
            "unlearning.settings.scrub.length is 0; expected at least 1",
        ),
        (
            ['unlearning.methods=["scrub"]', "unlearning.settings.scrub.length=2.5"],
            ConfigError,
            "unlearning.settings.scrub.length is 2.5; expected a whole number",
        ),
        (["deletion.scope=group", 'deletion.groups=["a"]'], ConfigError, "deletion.scope"),
        (["deletion.client=silo-77"], ConfigError, "deletion.client"),
        (["training.unit=group"], ConfigError, "training.unit"),
        (["data.records=3"], SecureFUError, "3 records cannot fill 4 clients"),
    ],
)
def test_what_cannot_run_is_refused_before_a_directory_is_made(
    settings: list[str], error: type[SecureFUError], named: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        Simulation(small(*settings), tmp_path / "run")
    assert named in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_units_that_are_groups_are_counted_as_groups(tmp_path: Path) -> None:
    file = tmp_path / "visits.csv"
    rows = [f"{math.sin(i):.4f},{math.cos(i):.4f},{i % 2},p{i // 5:02d}" for i in range(300)]
    file.write_text("\n".join(["a,b,label,person", *rows]))
    settings = ("training.unit=group", f"data.path={file}", "data.source=csv", "data.group_column=person")
    config = small(*settings, "data.partition=group", "data.records=0", "deletion.backdoor=false")
    # 48 of the 60 persons train: sums are divided by persons, not by their 240 visits
    assert plan_of(config, build_scenario(config)).recipe.nominal_units == 48
