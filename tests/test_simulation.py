"""Whole runs, small: what stands in the run directory is complete, consistent, and says what it is."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import FULL, METHODS, ROUNDS, Recorder, configured, links, read_json

from secure_fu.config_file import load_config
from secure_fu.crypto import Roster
from secure_fu.errors import (
    SecureFUError,
)
from secure_fu.privacy import EventStatus, PrivacyLedger
from secure_fu.protocol import ClientRecord, read_policy, verify_transcript
from secure_fu.report import validate_result, write_report
from secure_fu.scenario import build_scenario
from secure_fu.simulation import Simulation


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
    expected = {"config.toml", "result.json", "report.html", "ledger.sqlite", "transcript.jsonl", "committee.sqlite"}
    expected |= {"roster.bin", "policy.toml"}
    assert {name for name in files if "/" not in name} == expected
    branches = {"original", "unlearn-retrain", *(f"unlearn-{name}" for name in METHODS)}
    assert {name for name in files if name.startswith("clients/")} == {f"clients/{name}.sqlite" for name in branches}
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
    assert result["scheme"]["name"] == "kahe"
    assert result["scheme"]["parameter_set"] == "kahe-2048-48"
    assert result["scheme"]["secure"] is True
    assert "pool all it knows with 3 of the 10 members and 1 of the clients" in result["scheme"]["trust"]


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
        # A digit of 21 bits for each of 2410 coordinates: 1205 coefficients, and a few for blocks of eight, modulo 48
        # bits; ten members' shares of 2048 coefficients, four to an element of 16 bits; and for each member what
        # sealing takes, of which ML-KEM-768 alone has 1088 bytes.
        least = 2416 // 2 * 48 // 8 * 2 + 10 * (2048 // 4 * 2 + 1088)
        assert all(least < entry["upload_bytes_per_client"] < least + 2_000 for entry in rounds)
        assert len({entry["upload_bytes_per_client"] for entry in rounds}) == 1
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


def test_an_outsider_with_roster_and_policy_checks_the_whole_run(folder: Path, result: dict[str, Any]) -> None:
    pinned, policy = Roster.decode((folder / "roster.bin").read_bytes()), read_policy(folder / "policy.toml")
    branches = verify_transcript(folder / "transcript.jsonl", roster=pinned, policy=policy)
    names = ["original", "unlearn/retrain", *(f"unlearn/{name}" for name in METHODS)]
    assert [(branch.name, len(branch.releases)) for branch in branches] == list(
        zip(names, ROUNDS.values(), strict=True)
    )
    assert {branch.openers for branch in branches} == {"committee of 10, quorum 7, at most 3 corrupt"}
    assert (policy.noise_multiplier, policy.minimum_cohort) == (result["privacy"]["noise_multiplier"], 9)
    for link in links(folder):
        assert len(link["approvals"]) == 10
        assert set(link["approvals"]) == set(policy.committee)
    by_number = {release.round_number: release.participants for release in branches[0].releases}
    assert [("silo-09" in by_number[number]) for number in range(4)] == [False, False, True, True]


def test_clients_remember_each_branch_for_itself(folder: Path) -> None:
    for row, rounds in ROUNDS.items():
        name = {"original": "original", "retrained": "unlearn-retrain"}.get(row, f"unlearn-{row}")
        record = ClientRecord(folder / "clients" / f"{name}.sqlite")
        before = 0 if row == "original" else 4
        assert record.rounds("silo-00") == before + rounds
        assert record.rounds("silo-09") == max(0, before - 2) + (2 if row == "original" else rounds)
        record.close()


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
