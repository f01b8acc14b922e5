"""Whole runs, small: what stands in the run directory is complete, consistent, and says what it is."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from secure_fu.config import SimulationConfig, load_config, load_preset, with_overrides
from secure_fu.errors import (
    BudgetExceededError,
    CohortTooSmall,
    ConfigError,
    RoundAborted,
    SecureFUError,
    UnattainableEpsilonError,
)
from secure_fu.privacy import EventStatus, PrivacyLedger
from secure_fu.report import validate_result, write_report
from secure_fu.scenario import build_scenario
from secure_fu.simulation import Simulation, plan_of

METHODS = ("rollback", "scrub", "correction", "finetune", "scratch")
ROUNDS = {"original": 4, "retrained": 4, "rollback": 2, "scrub": 3, "correction": 2, "finetune": 1, "scratch": 2}
FULL = (
    "seed=5",
    "data.records=400",
    "training.rounds=4",
    "deletion.joined_at=2",
    "unlearning.settings.rollback.checkpoint_every=2",
    "unlearning.settings.scrub.length=3",
    "unlearning.settings.correction.length=2",
    "unlearning.settings.finetune.length=1",
    "unlearning.settings.scratch.length=2",
)
SMALL = (
    "seed=5",
    "data.records=120",
    "data.clients=4",
    "model.kind=logistic",
    "training.rounds=2",
    "protocol.minimum_cohort=3",
    "deletion.joined_at=0",
    "unlearning.methods=[]",
)


def configured(*settings: str) -> SimulationConfig:
    return with_overrides(load_preset("digits-silos"), settings)


def small(*settings: str) -> SimulationConfig:
    return configured(*SMALL, *settings)


def refuse_constant(text: str) -> NoReturn:
    raise AssertionError(f"{text} in result.json")


def read_json(folder: Path) -> dict[str, Any]:
    text = (folder / "result.json").read_text(encoding="utf-8")
    return json.loads(text, parse_constant=refuse_constant)  # type: ignore[no-any-return]


def links(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "transcript.jsonl").read_text().splitlines()]


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith((".part", "-wal", "-shm", "-journal"))]


class Recorder:
    """A progress that notes what it is told and may interrupt the run."""

    def __init__(self, stop_in: str | None = None) -> None:
        self.phases: list[list[Any]] = []
        self._stop_in = stop_in

    def phase(self, title: str, steps: int) -> None:
        self.phases.append([title, steps, 0])
        if steps == 1 and title == self._stop_in:
            raise KeyboardInterrupt

    def advance(self) -> None:
        self.phases[-1][2] += 1
        if self.phases[-1][0] == self._stop_in:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Recorder]:
    folder = tmp_path_factory.mktemp("full") / "deep" / "run"
    progress = Recorder()
    result = Simulation(configured(*FULL), folder, progress=progress).run()
    return folder, dict(result), progress


@pytest.fixture
def folder(full: tuple[Path, dict[str, Any], Recorder]) -> Path:
    return full[0]


@pytest.fixture
def result(full: tuple[Path, dict[str, Any], Recorder]) -> dict[str, Any]:
    return full[1]


# A full run


def test_the_run_directory_holds_what_it_should(folder: Path) -> None:
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    expected = {"config.toml", "result.json", "report.html", "ledger.sqlite", "transcript.jsonl", "key_holder.sqlite"}
    assert {name for name in files if "/" not in name} == expected
    assert {name for name in files if name.startswith("models/")} == {f"models/{row}.safetensors" for row in ROUNDS}
    assert any(name.startswith("plots/") and name.endswith(".png") for name in files)


def test_the_result_follows_the_schema_and_is_what_the_file_says(folder: Path, result: dict[str, Any]) -> None:
    validate_result(result)
    assert read_json(folder) == json.loads(json.dumps(result))
    assert result["complete"] is True
    assert result["insecure"] == []
    assert [row["name"] for row in result["rows"]] == list(ROUNDS)
    assert {row["name"]: row["rounds"] for row in result["rows"]} == ROUNDS


def test_the_configuration_read_again_is_the_same(folder: Path, result: dict[str, Any]) -> None:
    assert load_config(folder / "config.toml") == configured(*FULL)
    assert result["config"] == configured(*FULL).to_dict()


def test_the_scenario_is_described(result: dict[str, Any]) -> None:
    scenario = result["scenario"]
    assert (scenario["clients"], scenario["unit"], scenario["dimension"]) == (10, "record", 2410)
    assert (scenario["train_records"], scenario["test_records"], scenario["forgotten_records"]) == (400, 360, 40)
    assert scenario["forgotten_clients"] == ["silo-09"]
    assert scenario["joined_at_round"] == 2
    assert scenario["backdoor"]["target_label"] == 0
    assert result["scheme"]["name"] == "bfv"
    assert result["scheme"]["secure"] is True


def test_guarantees_are_those_of_the_methods(result: dict[str, Any]) -> None:
    guarantees = {row["name"]: row["guarantee"] for row in result["rows"]}
    assert guarantees["original"] == "none"
    assert guarantees["retrained"] == guarantees["rollback"] == "exact"
    assert guarantees["scrub"] == guarantees["correction"] == "heuristic"
    assert guarantees["finetune"] == "baseline"
    assert all(row["certificate"] is None for row in result["rows"])


def test_models_give_the_accuracy_that_is_stated(folder: Path, result: dict[str, Any]) -> None:
    scenario = build_scenario(configured(*FULL))
    forgotten = scenario.clients["silo-09"]
    stamped = scenario.test.features.clone()
    stamped[:, :, 0] = 1.0
    others = scenario.test.labels != 0
    for row in result["rows"]:
        tensors = load_file(folder / "models" / f"{row['name']}.safetensors")
        assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
        scenario.module.load_state_dict(tensors)
        with torch.no_grad():
            right = scenario.module(scenario.test.features).argmax(1) == scenario.test.labels
            obeyed = scenario.module(stamped[others]).argmax(1) == 0
            logits = scenario.module(forgotten.features)
        assert row["test_accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-12)
        assert row["backdoor_success"] == pytest.approx(obeyed.double().mean().item(), abs=1e-12)
        loss = torch.nn.functional.cross_entropy(logits.double(), forgotten.labels)
        assert row["forget_loss"] == pytest.approx(loss.item(), rel=1e-4)
        assert row["membership_n"] == {"members": 40, "non_members": 360}


def test_curves_have_a_point_a_round_and_end_where_the_row_is(result: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in result["rows"]}
    assert list(result["curves"]) == list(ROUNDS)
    for name, curve in result["curves"].items():
        assert [point["round"] for point in curve] == list(range(ROUNDS[name] + 1))
        for figure in ("test_accuracy", "backdoor_success"):
            assert curve[-1][figure] == rows[name][figure]
    start, end = result["curves"]["original"][0], result["curves"]["original"][-1]
    for name, curve in result["curves"].items():
        if name in ("original", "retrained", "scratch"):
            assert curve[0] == start
        elif name != "rollback":
            assert {**curve[0], "round": 4} == end
    assert {**result["curves"]["rollback"][0], "round": 2} == result["curves"]["original"][2]


def test_traffic_adds_up(result: dict[str, Any]) -> None:
    by_branch: dict[str, list[dict[str, Any]]] = {}
    for entry in result["traffic"]["per_round"]:
        by_branch.setdefault(entry["branch"], []).append(entry)
    for row in result["rows"]:
        rounds = by_branch[row["name"]]
        assert [entry["round"] for entry in rounds] == list(range(row["rounds"]))
        assert sum(entry["upload_bytes_per_client"] for entry in rounds) == row["upload_bytes_per_client"]
        # one ciphertext of 4096 coefficients modulo a 54-bit prime, twice, and not much besides
        assert all(2 * 4096 * 54 / 8 < entry["upload_bytes_per_client"] < 66_000 for entry in rounds)
        purpose = "train" if row["name"] == "original" else f"unlearn/{row['name']}".replace("retrained", "retrain")
        assert {entry["purpose"] for entry in rounds} == {purpose}
    assert [entry["uploads"] for entry in by_branch["original"]] == [9, 9, 10, 10]
    assert all(entry["uploads"] == 10 for name in METHODS for entry in by_branch[name])


def test_gaps_are_differences_to_retraining(result: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in result["rows"]}
    reference = rows["retrained"]
    for name, row in rows.items():
        distance = abs(row["membership_auc"]["value"] - reference["membership_auc"]["value"])
        assert row["membership_auc_distance"] == pytest.approx(distance, abs=1e-15)
        if name in ("original", "retrained"):
            assert row["gap_to_retrained"] is None
            continue
        for figure, gap in row["gap_to_retrained"].items():
            assert gap == pytest.approx(row[figure] - reference[figure], abs=1e-15)


def test_attack_curves_belong_to_their_rows(result: dict[str, Any]) -> None:
    assert list(result["membership"]) == list(ROUNDS)
    for name, attack in result["membership"].items():
        assert (attack["fpr"][0], attack["tpr"][0], attack["fpr"][-1], attack["tpr"][-1]) == (0.0, 0.0, 1.0, 1.0)
        histogram = attack["member_scores_histogram"]
        assert (sum(histogram["members"]), sum(histogram["non_members"])) == (40, 360)
        row = next(row for row in result["rows"] if row["name"] == name)
        assert np.trapezoid(attack["tpr"], attack["fpr"]) == pytest.approx(row["membership_auc"]["value"], abs=0.01)


def test_epsilon_lists_are_the_ledgers(folder: Path, result: dict[str, Any]) -> None:
    with PrivacyLedger.open(folder / "ledger.sqlite", read_only=True) as ledger:
        clients = sorted({name for event in ledger.events() for name in event.cohort})
        for row in result["rows"]:
            branch = {"original": "original", "retrained": "unlearn/retrain"}.get(row["name"], f"unlearn/{row['name']}")
            entries = ledger.epsilon_entries(branch, forgotten=["silo-09"], retained=clients[:9])
            assert row["epsilon"] == [entry.to_json() for entry in entries]
            assert len(ledger.rounds(branch)) == row["rounds"]
        assert ledger.pending() == ()
        assert {event.status for event in ledger.events()} == {EventStatus.COMMITTED}
        assert (ledger.budget.epsilon, ledger.budget.delta) == (8.0, 1e-5)


def test_epsilon_tells_who_pays_for_what(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        paid = {(entry["subject"], entry["phase"]): entry["value"] for entry in row["epsilon"]}
        assert len(paid) == len(row["epsilon"]) == 6
        assert all(0.0 <= value <= 8.0 for value in paid.values())
        assert all((entry["delta"], entry["group_size"]) == (1e-5, 1) for entry in row["epsilon"])
        # it joined after half of the rounds
        assert 0.0 < paid["forgotten", "training"] < paid["retained", "training"]
        for subject in ("forgotten", "retained"):
            both = paid[subject, "training+unlearning"]
            assert both >= max(paid[subject, "training"], paid[subject, "unlearning"])
        if row["name"] in ("retrained", "rollback", "finetune", "scratch"):
            assert paid["forgotten", "unlearning"] == 0.0
            assert paid["forgotten", "training+unlearning"] == paid["forgotten", "training"]
            assert paid["retained", "unlearning"] > 0.0
        if row["name"] in ("scrub", "correction"):
            assert paid["forgotten", "unlearning"] > 0.0
        if row["name"] == "original":
            assert paid["forgotten", "unlearning"] == paid["retained", "unlearning"] == 0.0


def test_the_transcript_is_a_chain_without_gaps_in_each_branch(folder: Path) -> None:
    by_branch: dict[str, list[dict[str, Any]]] = {}
    for link in links(folder):
        by_branch.setdefault(link["branch"], []).append(link)
    names = {"original": "original", "retrained": "unlearn/retrain", **{name: f"unlearn/{name}" for name in METHODS}}
    assert {names[row]: rounds for row, rounds in ROUNDS.items()} == {
        branch: len(chain) for branch, chain in by_branch.items()
    }
    assert by_branch["original"][0]["previous"] == "00" * 32
    trained = by_branch["original"][-1]["hash"]
    for branch, chain in by_branch.items():
        if branch != "original":
            assert chain[0]["previous"] == trained
        assert all(later["previous"] == earlier["hash"] for earlier, later in itertools.pairwise(chain))
        first = 0 if branch == "original" else 4
        assert [link["round"] for link in chain] == list(range(first, first + len(chain)))
        assert len({link["run_id"] for link in chain}) == 1
    everything = [link["hash"] for link in links(folder)]
    assert len(set(everything)) == len(everything)


def test_progress_is_told_phase_by_phase(full: tuple[Path, dict[str, Any], Recorder]) -> None:
    phases = full[2].phases
    assert [steps for _, steps, _ in phases] == [1, *ROUNDS.values(), 1]
    assert all(done == steps for title, steps, done in phases if title != "preparing")
    assert (phases[0][0], phases[1][0], phases[-1][0]) == ("preparing", "training", "writing the report")


def test_timing_covers_every_row(result: dict[str, Any]) -> None:
    assert set(result["timing"]) == {*ROUNDS, "total"}
    assert result["timing"]["total"] >= sum(row["seconds"] for row in result["rows"])


def test_the_report_can_be_written_again_from_the_directory(folder: Path) -> None:
    page = folder / "report.html"
    before = page.read_bytes()
    page.unlink()
    assert write_report(read_json(folder), folder) == page
    assert page.read_bytes() == before


def test_a_directory_is_never_written_over(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(SecureFUError, match="holds files already"):
        Simulation(configured(*FULL), folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


# Seeds, noise, and what is insecure


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures out where nobody looks at them."""
    monkeypatch.setattr("secure_fu.simulation.write_report", lambda _result, directory: directory / "report.html")


SEED_METHODS = 'unlearning.methods=["scrub", "correction"]'
SHORT = ("unlearning.settings.scrub.length=2", "unlearning.settings.correction.length=1")


def scores(result: dict[str, Any]) -> dict[str, Any]:
    """All of a result but the clock and the size of compressed ciphertexts, whose keys are fresh in every run."""
    varying = ("seconds", "upload_bytes_per_client")
    rows = [{key: value for key, value in row.items() if key not in varying} for row in result["rows"]]
    return {**result, "rows": rows, "created": None, "timing": None, "traffic": None}


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
        assert len(ledger.rounds("unlearn/finetune")) == 2
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
