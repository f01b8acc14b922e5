"""`secure-fu audit --scores` from end to end, on files as people bring them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secure_fu.cli import main
from secure_fu.report.audit import validate_audit


def save(**arrays: Any) -> None:
    np.savez("scores.npz", **arrays)


def scores(shift: float, records: int) -> dict[str, Any]:
    draw = np.random.default_rng(11)
    return {"member_scores": draw.normal(shift, 1.0, records), "non_member_scores": draw.normal(0.0, 1.0, records)}


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(tmp_path)

    def run_main(*arguments: str) -> tuple[int, str, str]:
        words = ["secure-fu", "audit", "--scores", "scores.npz", "--out", "audit", *arguments]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run_main


@pytest.mark.parametrize(
    ("shift", "records", "outcome", "code"),
    [(1.0, 500, "leak", 3), (0.0, 100, "cannot tell", 0), (0.0, 2, "invalid", 4)],
)
def test_scores_get_an_answer_and_a_code(
    shift: float, records: int, outcome: str, code: int, call: Callable[..., tuple[int, str, str]]
) -> None:
    given = {} if records > 2 else {"member_scores": np.array([1.0, 2.0]), "non_member_scores": np.array([0.0])}
    save(**(given or scores(shift, records)))
    found = call("--fail-on", "leak", "--fail-on", "invalid")
    assert (found[0], found[2]) == (code, "")
    result = json.loads(Path("audit/audit.json").read_text(encoding="utf-8"))
    validate_audit(result)
    assert result["verdict"]["outcome"] == outcome
    assert result["source"]["kind"] == "scores"
    assert (result["deletion"], result["protocol"], result["views"]) == (None, None, [])
    assert (Path("audit") / "audit.html").is_file()


def test_what_an_audit_writes_an_audit_reads(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    save(**scores(1.0, 300))
    call()
    (tmp_path / "audit").rename("first")
    (tmp_path / "first" / "scores.npz").replace("scores.npz")
    call()
    first, second = (
        json.loads((tmp_path / name / "audit.json").read_text(encoding="utf-8")) for name in ("first", "audit")
    )
    assert first["membership"] == second["membership"]


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"members": np.zeros(3), "non_members": np.ones(3)}, "no array 'member_scores'"),
        ({"member_scores": np.zeros(3)}, "no array 'non_member_scores'"),
        ({"member_scores": np.array([0.0, np.nan]), "non_member_scores": np.ones(3)}, "1 of 2 member_scores are NaN"),
        ({"member_scores": np.zeros((3, 2)), "non_member_scores": np.ones(3)}, "are of shape (3, 2)"),
        ({"member_scores": np.zeros(0), "non_member_scores": np.ones(3)}, "are of shape (0,)"),
        ({"member_scores": np.array(["a", "b"]), "non_member_scores": np.ones(3)}, "expected real numbers"),
    ],
)
def test_bad_files_are_named_in_one_line(
    arrays: dict[str, Any], named: str, call: Callable[..., tuple[int, str, str]]
) -> None:
    save(**arrays)
    code, out, complaint = call()
    assert (code, out, complaint.count("\n")) == (2, "", 1)
    assert complaint.startswith("secure-fu: scores.npz")
    assert named in complaint
    assert not Path("audit").exists()


def test_what_is_no_archive_is_named(call: Callable[..., tuple[int, str, str]]) -> None:
    Path("scores.npz").write_text("member,score\n1,0.3\n")
    code, out, complaint = call()
    assert (code, out, complaint.count("\n")) == (2, "", 1)
    assert "expected an archive by numpy.savez" in complaint
