"""What the audits write is what the report reads: real figures through the schema, onto the page."""

from __future__ import annotations

import html
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path += [str(Path(__file__).parent / "report"), str(Path(__file__).parent / "audit")]

from audit_examples import example_audit
from deletion_cast import digit_runs
from test_audit_protocol import audit as protocol_of
from test_audit_protocol import observed

from secure_fu.audit import MembershipAudit, read_scores, scores_audit
from secure_fu.audit.deletion import audit_deletion
from secure_fu.auditor.audit_directory import AuditDirectory
from secure_fu.auditor.membership_part import membership_figures, membership_scores
from secure_fu.auditor.outcome import AuditOutcome
from secure_fu.report.audit.result import Outcome
from secure_fu.report.audit.schema import read_audit


def written(tmp_path: Path, arrays: dict[str, Any] | None = None, **parts: Any) -> tuple[Any, str]:
    """An example audit with these parts in place of its own, after a way over the disk, and its page."""
    result = {**example_audit(), "membership": None, "deletion": None, "protocol": None, "views": [], **parts}
    with AuditDirectory(tmp_path / "audit") as directory:
        directory.write(AuditOutcome(result=result, scores=arrays or {}))
    decoded = json.loads((tmp_path / "audit" / "audit.json").read_text(encoding="utf-8"))
    return read_audit(decoded), (tmp_path / "audit" / "audit.html").read_text(encoding="utf-8")


@pytest.fixture
def membership() -> MembershipAudit:
    draw = np.random.default_rng(3)
    return scores_audit(draw.normal(1.0, 1.0, 400), draw.normal(0.0, 1.0, 300))


def test_membership(membership: MembershipAudit, tmp_path: Path) -> None:
    audit, page = written(tmp_path, membership_scores(membership), membership=membership_figures(membership))
    assert audit.membership.verdict.outcome.value == membership.verdict.outcome.value == "leak"
    assert audit.membership.attacks["scores"].auc.value == membership.auc.value
    assert (audit.membership.members, audit.membership.non_members) == (400, 300)
    assert sum(audit.membership.histogram.members) == 400
    assert membership.warnings[0] in page
    again = read_scores(tmp_path / "audit" / "scores.npz")  # what an audit writes, an audit reads
    assert again.member_scores.tolist() == membership.member_scores.tolist()
    assert again.non_member_scores.tolist() == membership.non_member_scores.tolist()


def test_deletion(tmp_path: Path) -> None:
    found = audit_deletion(digit_runs(runs=12, targets=120))
    audit, page = written(tmp_path, deletion={**found.to_json(), "unit": "record"})
    assert [row.name for row in audit.deletion.rows] == [row.name for row in found.rows]
    for shown, row in zip(audit.deletion.rows, found.rows, strict=True):
        assert shown.verdict.outcome.value == row.verdict.outcome.value
        assert shown.pair_verdict.outcome.value == row.pair_verdict.outcome.value
        assert list(shown.after_only) == [test.name for test in row.after_only]
        assert set(shown.headline) == {"out-then-out", "in-then-in"}
    assert {row.name: row.verdict.outcome for row in audit.deletion.rows}["nothing"] is Outcome.LEAK
    assert "After the deletion: as after retraining?" in page
    assert "Doing nothing (control)" in page


@pytest.mark.parametrize(("noise", "outcome"), [(1.0, Outcome.PASSED), (0.5, Outcome.LEAK)])
def test_protocol(noise: float, outcome: Outcome, tmp_path: Path) -> None:
    found = protocol_of(observed(1, noise=noise, zero_noise=noise))
    audit, page = written(tmp_path, protocol=found.to_json())
    assert audit.protocol.verdict.outcome is outcome
    assert [bound.value for bound in audit.protocol.bounds] == [bound.value for bound in found.bounds]
    assert audit.protocol.round_noise.ratio.value == found.round_noise.ratio.value
    assert set(audit.protocol.findings) == {"noise", "rounds", "contributions", "claim"}
    assert all(bound.assumption.value in html.unescape(page) for bound in found.bounds)
