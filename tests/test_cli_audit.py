"""The command `secure-fu audit`: what it hands on, what it writes, how it ends, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent / "report"))

from audit_examples import cannot_tell, example_audit, invalid, passed
from report_examples import changed, example_result, incomplete

from secure_fu.auditor.audit_directory import AuditDirectory
from secure_fu.auditor.outcome import AuditOptions, AuditOutcome, AuditPart
from secure_fu.cli import main
from secure_fu.config_file import load_preset, to_toml
from secure_fu.errors import ArgumentError, DataError, RunDirectoryError, SecureFUError
from secure_fu.report.audit import validate_audit


@dataclass
class Ended:
    code: int
    out: str
    err: str


@dataclass
class FakeAudit:
    """Stands in for the audit: notes what it is asked for, gives back an example, or fails when told to."""

    result: dict[str, Any] = field(default_factory=example_audit)
    error: BaseException | None = None
    asked: list[tuple[str, Any, dict[str, Any]]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def module(self) -> ModuleType:
        module = ModuleType("secure_fu.auditor.audit")
        for name in ("audit_run", "audit_config", "audit_scores"):
            setattr(module, name, self._answer(name))
        return module

    def _answer(self, name: str) -> Callable[..., AuditOutcome]:
        def answer(subject: Any, **options: Any) -> AuditOutcome:
            self.asked.append((name, subject, options))
            self.seen = [path.as_posix() for path in Path.cwd().rglob("*")]
            options["progress"].phase("shadow models", 2)
            options["progress"].advance()
            if self.error is not None:
                raise self.error
            return AuditOutcome(result=self.result, scores={"members": np.arange(3.0), "parts": np.ones((2, 2), bool)})

        return answer


@pytest.fixture
def audits(monkeypatch: pytest.MonkeyPatch) -> FakeAudit:
    fake = FakeAudit()
    monkeypatch.setitem(sys.modules, "secure_fu.auditor.audit", fake.module())
    monkeypatch.setattr("secure_fu.report.audit.page._PICTURES", ())
    return fake


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Ended]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run_main(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["secure-fu", "audit", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return Ended(code=int(caught.value.code or 0), out=captured.out, err=captured.err)

    return run_main


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """The parts of a finished run's folder that the command itself reads."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(example_result()))
    (folder / "config.toml").write_text(to_toml(load_preset("digits-silos")))
    return folder


# What is handed on


def test_a_configuration_and_its_options_reach_the_audit(call: Callable[..., Ended], audits: FakeAudit) -> None:
    found = call(
        *("--preset", "mnist-silos", "--set", "privacy.epsilon=4", "--data-dir", "somewhere", "--quick", "--out", "a"),
        *("--only", "deletion", "--only", "views", "--runs", "48", "--shadows", "16", "--canaries", "500"),
        *("--processes", "2"),
    )
    assert (found.code, found.err) == (0, "")
    ((name, config, options),) = audits.asked
    assert (name, config.name, config.privacy.epsilon) == ("audit_config", "mnist-silos", 4.0)
    assert options["data_dir"] == Path("somewhere")
    expected = AuditOptions(
        runs=48,
        shadows=16,
        canaries=500,
        processes=2,
        quick=True,
        parts=frozenset({AuditPart.DELETION, AuditPart.VIEWS}),
    )
    assert options["options"] == expected


def test_the_default_is_everything_into_a_folder_of_its_own(call: Callable[..., Ended], audits: FakeAudit) -> None:
    call("--preset", "digits-silos")
    ((_, config, options),) = audits.asked
    assert config == load_preset("digits-silos")
    assert options["options"] == AuditOptions()
    assert options["options"].parts == frozenset(AuditPart)
    (folder,) = Path("runs").iterdir()
    assert re.fullmatch(r"audit-digits-silos-\d{8}-\d{6}", folder.name)


def test_a_file_is_a_configuration(call: Callable[..., Ended], audits: FakeAudit) -> None:
    Path("own.toml").write_text('name = "own"\n[data]\nsource = "digits"\n')
    call("own.toml", "--set", "training.rounds=70")
    ((name, config, _),) = audits.asked
    assert (name, config.name, config.training.rounds) == ("audit_config", "own", 70)


def test_every_audit_of_a_run_gets_a_folder_in_it(call: Callable[..., Ended], audits: FakeAudit, run_dir: Path) -> None:
    for expected in ("audit", "audit-2", "audit-3"):
        found = call("run")
        assert found.out.splitlines()[-1] == f"Report: run/{expected}/audit.html"
        assert (run_dir / expected / "audit.json").is_file()
    assert [(name, subject) for name, subject, _ in audits.asked] == [("audit_run", Path("run"))] * 3


def test_scores_reach_the_audit(call: Callable[..., Ended], audits: FakeAudit) -> None:
    np.savez("scores.npz", member_scores=np.zeros(3), non_member_scores=np.ones(3))
    audits.result = cannot_tell()
    assert call("--scores", "scores.npz", "--only", "membership").code == 0
    ((name, subject, options),) = audits.asked
    assert (name, subject) == ("audit_scores", Path("scores.npz"))
    assert set(options) == {"options", "progress"}
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("audit-scores-")


# What is written


def test_the_folder_holds_the_audit_and_nothing_else(call: Callable[..., Ended], audits: FakeAudit) -> None:
    call("--preset", "digits-silos", "--out", "deep/down/here")
    folder = Path("deep/down/here")
    assert {path.name for path in folder.iterdir()} == {"audit.json", "scores.npz", "audit.html", "plots"}
    assert [path.name for path in folder.parent.iterdir()] == ["here"]
    assert json.loads((folder / "audit.json").read_text()) == example_audit()
    with np.load(folder / "scores.npz", allow_pickle=False) as scores:
        assert {name: scores[name].tolist() for name in scores} == {
            "members": [0.0, 1.0, 2.0],
            "parts": [[True, True], [True, True]],
        }
    assert "A leak was found" in (folder / "audit.html").read_text(encoding="utf-8")


def test_the_folder_appears_when_it_is_complete(call: Callable[..., Ended], audits: FakeAudit) -> None:
    call("--preset", "digits-silos", "--out", "here")
    assert not [path for path in audits.seen if path.endswith("/here")]
    assert len([path for path in audits.seen if ".here.part-" in path]) == 1
    assert Path("here").is_dir()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SecureFUError("broken"), ZeroDivisionError("ours")])
def test_what_ends_early_leaves_nothing(error: BaseException, call: Callable[..., Ended], audits: FakeAudit) -> None:
    audits.error = error
    if isinstance(error, ZeroDivisionError):
        with pytest.raises(ZeroDivisionError):
            call("--preset", "digits-silos", "--out", "new/folder")
    else:
        found = call("--preset", "digits-silos", "--out", "new/folder")
        assert found.code == (130 if isinstance(error, KeyboardInterrupt) else 1)
        assert found.err.startswith("secure-fu: interrupted; nothing was written" if found.code == 130 else "secure-fu")
    assert list(Path.cwd().iterdir()) == []


def test_an_audit_that_breaks_the_schema_is_not_written(call: Callable[..., Ended], audits: FakeAudit) -> None:
    audits.result = changed(example_audit(), ["membership", "attacks", "rmia", "auc", "value"], float("nan"))
    found = call("--preset", "digits-silos", "--out", "here")
    assert found.code == 2
    assert "audit.json: $.membership.attacks.rmia.auc.value is nan" in found.err
    assert list(Path.cwd().iterdir()) == []


def test_arrays_of_objects_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"scores\['names'\] is 'object'"):
        AuditOutcome(result={}, scores={"names": np.array(["a", None], dtype=object)})


def test_a_disk_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("secure_fu.auditor.audit_directory.npy_format.write_array", full)
    outcome = AuditOutcome(result=passed(), scores={"members": np.zeros(2)})
    with pytest.raises(RunDirectoryError, match="No space left"), AuditDirectory(tmp_path / "audit") as directory:
        directory.write(outcome)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_somebody_fills_meanwhile_is_left_alone(tmp_path: Path) -> None:
    outcome = AuditOutcome(result=cannot_tell(), scores={})
    with AuditDirectory(tmp_path / "audit") as directory:
        (tmp_path / "audit").mkdir()
        (tmp_path / "audit" / "thesis.tex").write_text("mine")
        with pytest.raises(RunDirectoryError, match="did somebody else write there"):
            directory.write(outcome)
    assert [path.name for path in tmp_path.rglob("*")] == ["audit", "thesis.tex"]


# How it ends


def test_the_summary_is_plain_and_narrow_in_a_pipe(call: Callable[..., Ended], audits: FakeAudit) -> None:
    found = call("--preset", "digits-silos", "--out", "here")
    assert found.err == ""
    assert "\x1b" not in found.out
    lines = found.out.splitlines()
    assert lines[0] == "A leak was found."
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "Report: here/audit.html"


def test_json_is_all_that_is_printed(call: Callable[..., Ended], audits: FakeAudit) -> None:
    found = call("--preset", "digits-silos", "--out", "here", "--json")
    assert json.loads(found.out) == example_audit()
    assert found.out == (Path("here") / "audit.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("result", "fail_on", "code"),
    [
        (example_audit, [], 0),
        (example_audit, ["leak"], 3),
        (example_audit, ["invalid"], 0),
        (example_audit, ["leak", "invalid"], 3),
        (invalid, [], 0),
        (invalid, ["invalid"], 4),
        (invalid, ["leak"], 0),
        (cannot_tell, ["leak", "invalid"], 0),
        (passed, ["leak", "invalid"], 0),
    ],
)
def test_exit_codes_for_ci(
    result: Callable[[], dict[str, Any]],
    fail_on: list[str],
    code: int,
    call: Callable[..., Ended],
    audits: FakeAudit,
) -> None:
    audits.result = result()
    words = [word for outcome in fail_on for word in ("--fail-on", outcome)]
    assert call("--preset", "digits-silos", "--out", "here", *words).code == code
    assert Path("here/audit.json").is_file()  # what was found is to be read, whatever the code


# Bad input


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "is 'nothing'; expected one of a run directory"),
        (["run", "--scores", "scores.npz"], "is 'RUN_DIR|CONFIG and --scores'; expected one of"),
        (["--preset", "digits-silos", "run"], "is 'RUN_DIR|CONFIG and --preset'"),
        (["absent"], "RUN_DIR|CONFIG is 'absent'; expected an existing run directory or TOML file"),
        (["absent.toml"], "config is 'absent.toml'; expected a readable TOML file"),
        (["digits-silos"], "write --preset digits-silos"),
        (["scores.npz"], "write --scores FILE"),
        (["plain"], "RUN_DIR is 'plain', which holds no result.json and no config.toml"),
        (["run", "--set", "seed=3"], "--set is 'seed=3'; expected no setting with a run directory"),
        (["--scores", "absent.npz"], "--scores is 'absent.npz'; expected an existing NPZ file"),
        (["--scores", "scores.npz", "--set", "seed=3"], "expected no setting with --scores"),
        (["--scores", "scores.npz", "--data-dir", "x"], "--data-dir is 'x'; expected no data"),
        (["--scores", "scores.npz", "--only", "deletion"], "--only is 'deletion'; expected membership"),
        (["--scores", "scores.npz", "--shadows", "8"], "--shadows is 8; expected nothing with --scores"),
        (["run", "--runs", "7"], "--runs is 7; expected a whole number of at least 8"),
        (["run", "--canaries", "19"], "--canaries is 19; expected a whole number of at least 20"),
        (["run", "--shadows", "7"], "--shadows is 7; expected an even number of at least 2"),
        (["run", "--shadows", "0"], "--shadows is 0; expected an even number of at least 2"),
        (["--preset", "digits-silos", "--set", "training.rouns=3"], "did you mean training.rounds?"),
        (["--preset", "none"], "preset is 'none'; expected one of"),
        (["run", "--out", "plain"], "--out is 'plain', which holds files already"),
        (["run", "--out", "scores.npz"], "--out is 'scores.npz', which is a file or lies below one"),
        (["run", "--out", "scores.npz/below"], "which is a file or lies below one"),
    ],
)
def test_bad_input_is_named_in_one_line(
    arguments: list[str], named: str, call: Callable[..., Ended], audits: FakeAudit, run_dir: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "scores.npz", member_scores=np.zeros(3), non_member_scores=np.ones(3))
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "thesis.tex").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    found = call(*arguments)
    assert found.code == 2
    assert named in found.err
    assert found.err.startswith("secure-fu: ")
    assert found.err.count("\n") == 1
    assert found.out == ""
    assert audits.asked == []
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (json.dumps(changed(example_result(), ["schema"], "secure-fu/result/0")), "written by another version"),
        (json.dumps(incomplete()), "a run that did not finish"),
        ("not JSON", "whose result.json is no JSON"),
        ("[]", "whose result.json is no object"),
        ("{}", "result.json: $.schema is missing"),
    ],
    ids=["version", "incomplete", "text", "list", "empty"],
)
def test_what_is_no_finished_run_of_this_version_is_refused(
    text: str, named: str, call: Callable[..., Ended], audits: FakeAudit, run_dir: Path
) -> None:
    (run_dir / "result.json").write_text(text)
    found = call("run")
    assert (found.code, found.err.count("\n"), audits.asked) == (2, 1, [])
    assert named in found.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--fail-on", "doubt"], "--fail-on"),
        (["--only", "everything"], "--only"),
        (["--runs", "1"], "--runs"),
        (["--canaries", "x"], "--canaries"),
    ],
)
def test_a_wrong_command_line_is_answered_by_its_part(
    words: list[str], named: str, call: Callable[..., Ended], audits: FakeAudit
) -> None:
    found = call("--preset", "digits-silos", *words)
    assert found.code == 2
    assert named in found.err


def test_errors_of_the_audit_itself_keep_their_kind(call: Callable[..., Ended], audits: FakeAudit) -> None:
    audits.error = DataError("scores.npz: member_scores holds NaN")
    np.savez("scores.npz", member_scores=np.zeros(3))
    found = call("--scores", "scores.npz")
    assert (found.code, found.err) == (2, "secure-fu: scores.npz: member_scores holds NaN\n")
    assert not Path("runs").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(call: Callable[..., Ended], audits: FakeAudit, run_dir: Path) -> None:
    run_dir.chmod(0o555)
    try:
        found = call("run")
    finally:
        run_dir.chmod(0o755)
    assert (found.code, found.err.count("\n"), audits.asked) == (2, 1, [])
    assert "cannot be written (Permission denied)" in found.err


def test_no_permission_is_one_line_for_root_too(
    call: Callable[..., Ended], audits: FakeAudit, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", denied)
    found = call("run")
    assert (found.code, audits.asked) == (2, [])
    assert found.err == (
        "secure-fu: --out is 'run/audit', which cannot be written (Permission denied); expected a folder of yours\n"
    )


@pytest.mark.parametrize(
    "options",
    [
        {"runs": 7},
        {"shadows": True},
        {"shadows": 7},
        {"shadows": 0},
        {"canaries": 19},
        {"canaries": 40.0},
        {"processes": 0},
        {"parts": frozenset()},
    ],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError) as caught:
        AuditOptions(**options)
    assert caught.value.argument == next(iter(options))


def test_the_smallest_numbers_are_taken(call: Callable[..., Ended], audits: FakeAudit) -> None:
    assert call("--preset", "digits-silos", "--runs", "8", "--shadows", "2", "--canaries", "20").code == 0
    assert audits.asked[0][2]["options"] == AuditOptions(runs=8, shadows=2, canaries=20)


def test_the_examples_follow_the_schema() -> None:
    for example in (example_audit, passed, cannot_tell, invalid):
        validate_audit(example())


def test_a_copy_of_a_run_is_a_run(call: Callable[..., Ended], audits: FakeAudit, run_dir: Path) -> None:
    shutil.copytree(run_dir, "elsewhere")
    assert call("elsewhere").code == 0


@pytest.mark.parametrize("out", [".", "link"])
def test_the_folder_one_is_in_and_a_link_to_one_are_folders_too(
    out: str, call: Callable[..., Ended], audits: FakeAudit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "link").symlink_to(empty)
    monkeypatch.chdir(empty if out == "." else tmp_path)
    assert call("--preset", "digits-silos", "--out", out).code == 0
    assert (tmp_path / "empty" / "audit.json").is_file()
    assert (tmp_path / "empty" / "audit.json").stat().st_mode & 0o077 == 0
