"""Whole audits: of a configuration, of a run directory, of somebody's scores; what they write, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from small_runs import FULL, Recorder, configured, small

from secure_fu.audit import Outcome as AuditOutcomeOf
from secure_fu.audit import worst
from secure_fu.auditor.audit import audit_config, audit_run, audit_scores
from secure_fu.auditor.deletion_part import deletion_verdicts
from secure_fu.auditor.outcome import AuditOptions, AuditOutcome, AuditPart, TargetKind
from secure_fu.auditor.protocol_part import audit_canaries
from secure_fu.errors import ArgumentError, DataError, RunDirectoryError
from secure_fu.learning import FlatModel
from secure_fu.report.audit.result import Outcome
from secure_fu.report.audit.schema import read_audit
from secure_fu.scenario import build_scenario
from secure_fu.simulation import Simulation, plan_of
from secure_fu.unlearning import METHODS

FEW = AuditOptions(runs=8, shadows=8, canaries=60, processes=1, quick=True)


def only(*parts: AuditPart) -> AuditOptions:
    return AuditOptions(runs=8, shadows=8, canaries=40, processes=1, quick=True, parts=frozenset(parts))


@pytest.fixture(scope="module")
def whole() -> tuple[AuditOutcome, Recorder]:
    progress = Recorder()
    return audit_config(configured(*FULL), data_dir=None, options=FEW, progress=progress), progress


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audited") / "run"
    Simulation(small(), folder).run()
    return folder


def test_an_audit_of_a_configuration_has_all_parts(whole: tuple[AuditOutcome, Recorder]) -> None:
    audit = read_audit(whole[0].result)
    assert audit.membership is not None
    assert audit.deletion is not None
    assert audit.protocol is not None
    assert audit.views
    assert {row.name for row in audit.deletion.rows} >= {"nothing", "retrained", "rollback", "scrub"}
    assert audit.deletion.runs == 8
    assert audit.membership.shadows == 8
    assert audit.protocol.canaries == 60
    assert audit.assumptions
    assert audit.not_seen
    assert set(audit.timing) == {"membership", "deletion", "protocol", "total"}
    assert audit.source.kind == "config"


def test_the_gravest_verdict_is_the_audits(whole: tuple[AuditOutcome, Recorder]) -> None:
    audit = read_audit(whole[0].result)
    assert audit.membership is not None
    assert audit.protocol is not None
    assert audit.deletion is not None
    offered = [row.verdict.outcome for row in audit.deletion.rows if row.name in ("rollback", "scrub", "correction")]
    wrong = (Outcome.LEAK, Outcome.INVALID)
    views = [view.verdict.outcome for view in audit.views if view.verdict.outcome in wrong]
    found = [audit.membership.verdict.outcome, audit.protocol.verdict.outcome, *offered, *views]
    gravity = [Outcome.PASSED, Outcome.CANNOT_TELL, Outcome.INVALID, Outcome.LEAK]
    assert audit.outcome is max(found, key=gravity.index)


def test_a_baseline_that_does_not_forget_is_no_leak_of_the_audit(whole: tuple[AuditOutcome, Recorder]) -> None:
    said = " ".join(read_audit(whole[0].result).sentences)
    assert "Rollback" in said
    assert "Fine-tuning" not in said
    assert "Doing nothing (control)" not in said


def test_every_phase_is_gone_through(whole: tuple[AuditOutcome, Recorder]) -> None:
    phases = whole[1].phases
    assert [title for title, _, _ in phases] == ["shadow models", "shadow runs", "judging methods", "canary run"]
    assert all(steps == done for _, steps, done in phases)


def test_scores_can_be_judged_again(whole: tuple[AuditOutcome, Recorder], tmp_path: Path) -> None:
    outcome = whole[0]
    np.savez(tmp_path / "scores.npz", **outcome.scores)
    again = read_audit(audit_scores(tmp_path / "scores.npz", options=FEW, progress=Recorder()).result)
    first = read_audit(outcome.result)
    assert again.membership is not None
    assert first.membership is not None
    assert again.membership.attacks["scores"].auc == first.membership.attacks[first.membership.chosen].auc
    assert again.deletion is None


def test_a_run_is_audited_by_its_own_model(run: Path, tmp_path: Path) -> None:
    options = only(AuditPart.MEMBERSHIP)
    audit = audit_run(run, data_dir=None, options=options, progress=Recorder())
    assert audit.result["source"]["kind"] == "run"  # type: ignore[index]
    tensors = load_file(run / "models" / "original.safetensors")
    changed = _copied(run, tmp_path / "changed")
    save_file({name: -tensor for name, tensor in tensors.items()}, changed / "models" / "original.safetensors")
    other = audit_run(changed, data_dir=None, options=options, progress=Recorder())
    assert not np.array_equal(audit.scores["member_scores"], other.scores["member_scores"])


def test_the_transcript_of_a_run_is_read(run: Path) -> None:
    audit = read_audit(audit_run(run, data_dir=None, options=only(AuditPart.VIEWS), progress=Recorder()).result)
    assert audit.protocol is None
    with_run = {view.party for view in audit.views}
    alone = audit_config(small(), data_dir=None, options=only(AuditPart.VIEWS), progress=Recorder())
    assert with_run > {view.party for view in read_audit(alone.result).views}


def test_members_are_all_records_that_the_lot_gave_to_clients(whole: tuple[AuditOutcome, Recorder]) -> None:
    """Also those of who leaves and of who came late: without them members would be of another law than the rest."""
    scenario = build_scenario(configured(*FULL))
    audit = read_audit(whole[0].result)
    assert audit.membership is not None
    assert audit.membership.members == sum(len(records) for records in scenario.clients.values())
    assert audit.membership.non_members == len(scenario.test)


def test_a_small_model_has_no_more_zero_rounds_than_its_budget_pays_for() -> None:
    config = small()
    scenario = build_scenario(config)
    protocol, _, _ = audit_canaries(config, scenario, plan_of(config, scenario), canaries=20, quick=False)
    assert protocol.zero_round.values == 2 * FlatModel(scenario.module).dimension


def row(outcome: AuditOutcomeOf, p_value: float, equivalent: bool = False) -> Any:
    """What `deletion_verdicts` reads of a row."""
    test = SimpleNamespace(p_different=p_value, equivalent=equivalent)
    weak = SimpleNamespace(p_different=0.9, equivalent=False)
    return SimpleNamespace(
        name="scrub",
        verdict=SimpleNamespace(outcome=outcome, sentence="Why."),
        after_only=(SimpleNamespace(name="a", test=test), SimpleNamespace(name="b", test=weak)),
        forget_excess=SimpleNamespace(name="c", test=weak),
    )


@pytest.mark.parametrize(
    ("p_value", "methods", "expected"),
    [
        (0.01, 1, AuditOutcomeOf.LEAK),
        (0.01, 5, AuditOutcomeOf.CANNOT_TELL),
        (0.001, 5, AuditOutcomeOf.LEAK),
    ],
)
def test_methods_share_the_level_of_the_whole(p_value: float, methods: int, expected: AuditOutcomeOf) -> None:
    others = [row(AuditOutcomeOf.CANNOT_TELL, 0.9) for _ in range(methods - 1)]
    for other, name in zip(others, ("rollback", "fisher", "ascent", "correction"), strict=False):
        other.name = name
    audit: Any = SimpleNamespace(rows=[row(AuditOutcomeOf.LEAK, p_value), *others], terms=SimpleNamespace(level=0.95))
    offered = [METHODS[row.name]() for row in audit.rows]
    assert worst(deletion_verdicts(audit, offered)) is expected


def test_whole_clients_can_be_deleted() -> None:
    options = AuditOptions(
        runs=8, processes=1, quick=True, targets=TargetKind.CLIENTS, parts=frozenset({AuditPart.DELETION})
    )
    config = small("unlearning.methods=['finetune', 'scrub']", "unlearning.settings.scrub.length=2")
    audit = read_audit(audit_config(config, data_dir=None, options=options, progress=Recorder()).result)
    assert audit.deletion is not None
    assert (audit.deletion.units, audit.deletion.forgotten) == (3, 1)


def test_a_model_that_does_not_fit_is_named(run: Path, tmp_path: Path) -> None:
    other = _copied(run, tmp_path / "other")
    path = other / "models" / "original.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name][:1].clone()}, path)
    with pytest.raises(RunDirectoryError, match=r"original\.safetensors.*do not fit"):
        audit_run(other, data_dir=None, options=FEW, progress=Recorder())
    path.write_bytes(b"nonsense")
    with pytest.raises(RunDirectoryError, match=r"original\.safetensors cannot be read"):
        audit_run(other, data_dir=None, options=FEW, progress=Recorder())
    path.unlink()
    with pytest.raises(RunDirectoryError, match=r"original\.safetensors cannot be read"):
        audit_run(other, data_dir=None, options=FEW, progress=Recorder())


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    devices = configured(
        *FULL, "training.unit=client", "training.sampling_rate=1.0", "privacy.epsilon=10", "training.nominal_units=10"
    )
    with pytest.raises(ArgumentError, match=r"parts.*client"):
        audit_config(devices, data_dir=None, options=only(AuditPart.MEMBERSHIP), progress=Recorder())
    with pytest.raises(ArgumentError, match=r"runs.*at least 8"):
        AuditOptions(runs=3, parts=frozenset({AuditPart.DELETION}), processes=1, quick=True)
    progress = Recorder()
    many = AuditOptions(canaries=100_000, quick=True)
    with pytest.raises(ArgumentError, match=r"^canaries is 100000; expected at most \d+, as many as parameters"):
        audit_config(small(), data_dir=None, options=many, progress=progress)
    assert progress.phases == []  # before hours of work
    with pytest.raises(DataError, match="no file"):
        audit_scores(tmp_path / "missing.npz", options=FEW, progress=Recorder())


def _copied(source: Path, target: Path) -> Path:
    for path in source.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    return target
