"""The command line as its user meets it: exit codes, messages, pipes."""

from __future__ import annotations

import ast
import json
import os
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from command import COMMAND, ESCAPE, SMALL, environment, run

import secure_fu.cli
from secure_fu.cli import main
from secure_fu.config import SimulationConfig
from secure_fu.config_file import load_preset, preset_names
from secure_fu.errors import BudgetExceededError, CapacityError, DataError, RoundAborted, SecureFUError
from secure_fu.privacy import PrivacyLedger


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Outcome]:
    """The entry point in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run_main(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["secure-fu", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return Outcome(code=int(caught.value.code or 0), out=captured.out, err=captured.err)

    return run_main


def own_sources() -> list[str]:
    """The text of every module of the command line."""
    files = sorted(Path(secure_fu.cli.__file__).parent.rglob("*.py"))
    assert len(files) > 1
    return [file.read_text(encoding="utf-8") for file in files]


# Help


def test_help_names_the_commands(call: Callable[..., Outcome]) -> None:
    found = call("--help")
    assert found.code == 0
    for command in ("simulate", "audit", "ledger", "verify"):
        assert command in found.out


def test_no_arguments_get_help_too(call: Callable[..., Outcome]) -> None:
    assert "simulate" in call().out


def test_help_of_simulate_names_every_preset_and_what_is_insecure(call: Callable[..., Outcome]) -> None:
    text = " ".join(call("simulate", "--help").out.replace("│", " ").split())
    for name in preset_names():
        assert name in text
    assert text.count("INSECURE") == 2
    assert "config.toml of an earlier run" in text


@pytest.mark.parametrize("command", ["local", "unlearn", "verify"])
def test_help_is_folded_at_the_width_of_the_terminal_alone(
    call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    said = {line.strip() for line in call(command, "--help").out.splitlines()}
    paragraphs = getattr(sys.modules[f"secure_fu.cli.{command}"], command).__doc__.split("\n\n")
    assert len(paragraphs) > 1
    assert {" ".join(paragraph.split()) for paragraph in paragraphs} <= said


def test_the_example_in_the_help_works() -> None:
    from secure_fu.config_file import with_overrides

    (example,) = re.findall(r"Change one setting, as ([^;]+);", "".join(own_sources()))
    for name in preset_names():
        assert with_overrides(load_preset(name), [example]) != load_preset(name)


def test_help_comes_at_once(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = run("--help", cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert found.returncode == 0
    # processor time, for other work on the machine is not the command's fault
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_the_command_line_loads_nothing_heavy_until_it_has_to() -> None:
    code = "import sys, secure_fu.cli; print([m for m in ('torch', 'numpy', 'scipy', 'sklearn') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    trees = [ast.parse(source) for source in own_sources()]
    nodes = [node for tree in trees for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    own = {node.module for node in nodes if str(node.module).startswith("secure_fu")}
    own = {name for name in own if not str(name).startswith("secure_fu.cli")}
    assert own == {"secure_fu.config", "secure_fu.config_file", "secure_fu.errors", "secure_fu.file_names"}


# Bad input


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--preset", "digit-silos"], "preset is 'digit-silos'; expected one of"),
        (["--preset", "digits-silos", "own.toml"], "--preset is 'digits-silos'; expected either"),
        (["digits-silos"], "write --preset digits-silos"),
        (["own.toml"], "config is 'own.toml'; expected a readable TOML file"),
        (["--set", "training.rouns=3"], "did you mean training.rounds?"),
        (["--set", "training.rounds"], "--set is 'training.rounds'; expected key=value"),
        (["--set", "training.rounds=many"], "training.rounds is 'many'; expected a whole number"),
        (["--set", "training.rounds=20"], "deletion.joined_at is 60; expected below training.rounds, 20"),
        (["--set", "unlearning.methods=[scrub]"], "unlearning.methods is '[scrub]'; expected a list, as"),
        (["--set", 'unlearning.methods=["scrb"]'], "did you mean 'scrub'"),
        (["--set", "unlearning.settings.retrain.length=3"], "unlearning.settings.retrain"),
        (["--scheme", "ckks"], "protocol.scheme is 'ckks'; expected one of kahe, bfv, plain"),
        (["--scheme", 'pl"ain'], "protocol.scheme is"),
        (["--set", "protocol.member=9"], "protocol.member is 9; expected a known key; did you mean protocol.members?"),
        (["--set", "protocol.members=0"], "protocol.members is 0; expected a whole number from 1 to 1024"),
        (["--set", "protocol.corrupt=-1"], "protocol.corrupt is -1; expected a finite number of at least 0"),
        (
            ["--set", "protocol.threshold=3"],
            "protocol.threshold is 3; expected a whole number above protocol.corrupt, 3",
        ),
        (["--set", "protocol.quorum=6"], "protocol.quorum is 6; expected a whole number from 7"),
        (["--set", "protocol.quorum=all"], "protocol.quorum is 'all'; expected a whole number"),
        (["--set", "protocol.member_dropout=1.0"], "protocol.member_dropout is 1.0; expected a number in [0, 1)"),
        (["--set", "protocol.grid=coarse"], "protocol.grid is 'coarse'; expected one of fine, rotated"),
        (["--set", "protocol.grid=rotated"], "protocol.grid is 'rotated'; expected fine, with training.unit record"),
        (["--set", "protocol.sum_bits=40"], "protocol.sum_bits is 40; expected a whole number from 8 to 32"),
        (["--preset", "mnist-silos"], "give it with --data-dir"),
        (["--preset", "mnist-silos", "--data-dir", "absent"], "absent is no folder"),
        (["--set", "privacy.epsilon=1e-5"], "epsilon 1e-05 at delta 1e-05 is out of reach"),
    ],
)
def test_bad_input_is_named_in_one_line(arguments: list[str], named: str, call: Callable[..., Outcome]) -> None:
    found = call("simulate", *arguments)
    assert found.code == 2
    assert named in found.err
    assert found.err.startswith("secure-fu: ")
    assert found.err.count("\n") == 1
    assert found.out == ""
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["simulat"], "simulat"),
        (["simulate", "--sed", "3"], "--sed"),
        (["simulate", "--seed", "x"], "--seed"),
        (["simulate", "--seed", "-1"], "--seed"),
        (["simulate", "a.toml", "b.toml"], "b.toml"),
        (["ledger"], "RUN_DIR"),
        (["simulate", "--out"], "--out"),
    ],
)
def test_a_wrong_command_line_is_answered_by_its_part(
    arguments: list[str], named: str, call: Callable[..., Outcome]
) -> None:
    found = call(*arguments)
    assert found.code == 2
    assert named in found.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["simulate", "--preset", "none"], "preset is 'none'"),
        (["simulate", "--no-such-option"], "--no-such-option"),
        (["simulate", "--out", "file/below"], "--out is 'file/below', which is a file or lies below one"),
        (["simulate", "--out", "full"], "--out is 'full', which holds files already"),
        (["ledger", "full"], "RUN_DIR is 'full', which holds no ledger.sqlite"),
    ],
)
def test_a_real_process_ends_with_two_and_no_traceback(arguments: list[str], named: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    found = run(*arguments, cwd=tmp_path)
    assert found.returncode == 2
    assert named in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == ""
    assert {path.name for path in tmp_path.rglob("*")} == {"file", "full", "thesis.tex"}


# What the options do


@dataclass
class FakeRuns:
    """Stands in for Simulation: notes what it is asked for, and fails when told to."""

    asked: list[tuple[SimulationConfig, Path, dict[str, Any]]] = field(default_factory=list)
    error: BaseException | None = None

    def __call__(self, config: SimulationConfig, out: Path, **options: Any) -> FakeRuns:
        self.asked.append((config, out, options))
        return self

    def run(self) -> dict[str, object]:
        raise self.error or SecureFUError("enough")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> FakeRuns:
    fake = FakeRuns()
    monkeypatch.setattr("secure_fu.simulation.Simulation", fake)
    return fake


def test_options_reach_the_simulation(call: Callable[..., Outcome], runs: FakeRuns) -> None:
    call(
        *("simulate", "--preset", "mnist-silos", "--seed", "7", "--scheme", "plain", "--data-dir", "somewhere"),
        *("--set", "privacy.epsilon=4", "--set", "seed=3", "--out", "there", "--insecure-deterministic"),
    )
    ((config, out, options),) = runs.asked
    assert (config.name, config.seed, config.protocol.scheme) == ("mnist-silos", 7, "plain")
    assert config.privacy.epsilon == 4.0
    assert out == Path("there")
    assert (options["data_dir"], options["insecure_deterministic"]) == (Path("somewhere"), True)


def test_the_default_is_the_default_preset_secure_and_in_runs(call: Callable[..., Outcome], runs: FakeRuns) -> None:
    call("simulate")
    ((config, out, options),) = runs.asked
    assert config == load_preset("digits-silos")
    assert re.fullmatch(r"runs/digits-silos-\d{8}-\d{6}", out.as_posix())
    assert (options["data_dir"], options["insecure_deterministic"]) == (None, False)


def test_a_file_is_read(call: Callable[..., Outcome], runs: FakeRuns, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('name = "own"\n[data]\nsource = "digits"\n')
    call("simulate", "own.toml", "--set", "training.rounds=7")
    ((config, out, _),) = runs.asked
    assert (config.name, config.training.rounds) == ("own", 7)
    assert out.name.startswith("own-")


@pytest.mark.parametrize(
    ("error", "code", "first"),
    [
        (BudgetExceededError("too much"), 1, "secure-fu: too much"),
        (RoundAborted("too few"), 1, "secure-fu: too few"),
        (CapacityError("too large"), 2, "secure-fu: too large"),
        (DataError("broken"), 2, "secure-fu: broken"),
        (KeyboardInterrupt(), 130, "secure-fu: interrupted"),
    ],
)
def test_exit_codes_tell_what_happened_and_notes_where(
    error: BaseException, code: int, first: str, call: Callable[..., Outcome], runs: FakeRuns
) -> None:
    error.add_note("what was done is in there, marked incomplete")
    runs.error = error
    found = call("simulate")
    assert found.code == code
    assert found.err.splitlines() == [first, "secure-fu: what was done is in there, marked incomplete"]


def test_a_mistake_of_ours_is_not_dressed_up_as_the_users(
    call: Callable[..., Outcome], runs: FakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.error = ZeroDivisionError("ours")
    monkeypatch.setattr(sys, "argv", ["secure-fu", "simulate"])
    with pytest.raises(ZeroDivisionError):
        main()


def test_a_run_that_cannot_go_on_ends_with_one_and_says_where(call: Callable[..., Outcome]) -> None:
    found = call("simulate", *SMALL, "--scheme", "plain", "--set", "protocol.dropout=0.95", "--out", "run")
    assert found.code == 1
    assert "secure-fu: round 2: " in found.err
    assert found.err.splitlines()[-1] == "secure-fu: what was done is in run, marked incomplete"
    assert json.loads(Path("run/result.json").read_text())["complete"] is False


def test_a_committee_that_is_away_ends_a_run_with_one(call: Callable[..., Outcome]) -> None:
    found = call("simulate", *SMALL, "--set", "protocol.member_dropout=0.99", "--out", "run")
    assert found.code == 1
    assert re.search(r"secure-fu: round 0: \d members voted; a quorum is 7", found.err)
    assert found.err.splitlines()[-1] == "secure-fu: what was done is in run, marked incomplete"
    assert json.loads(Path("run/result.json").read_text())["complete"] is False


def test_noise_below_what_the_budget_needs_ends_with_one(call: Callable[..., Outcome]) -> None:
    found = call("simulate", *SMALL, "--set", "privacy.noise_multiplier=0.2", "--out", "run")
    assert found.code == 1
    assert "noise_multiplier is 0.2; expected at least" in found.err
    assert not Path("run").exists()


# Pipes


@dataclass
class Piped:
    folder: Path
    process: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def piped(tmp_path_factory: pytest.TempPathFactory) -> Piped:
    """A run from an empty folder, without --out, into pipes."""
    folder = tmp_path_factory.mktemp("empty")
    return Piped(folder, run("simulate", *SMALL, "--scheme", "plain", cwd=folder))


@pytest.fixture
def run_dir(piped: Piped) -> Path:
    (found,) = (piped.folder / "runs").iterdir()
    return found


def test_a_run_in_a_pipe_is_quiet_and_plain(piped: Piped, run_dir: Path) -> None:
    process = piped.process
    assert process.returncode == 0
    assert process.stderr == ""
    assert ESCAPE not in process.stdout
    assert "\r" not in process.stdout
    assert max(map(len, process.stdout.splitlines()[:-1])) <= 80
    assert process.stdout.splitlines()[-1] == f"Report: {run_dir.relative_to(piped.folder) / 'report.html'}"
    assert [path.name for path in piped.folder.iterdir()] == ["runs"]
    assert (run_dir / "report.html").is_file()


def test_the_plain_scheme_says_insecure_in_table_report_and_result(piped: Piped, run_dir: Path) -> None:
    assert "INSECURE: --scheme plain" in piped.process.stdout
    assert "INSECURE" in (run_dir / "report.html").read_text(encoding="utf-8")
    assert json.loads((run_dir / "result.json").read_text())["insecure"] != []


@pytest.mark.parametrize("arguments", [["--help"], ["simulate", "--help"], ["ledger", "RUN_DIR"]])
def test_a_reader_that_goes_away_is_no_error_of_the_program(arguments: list[str], run_dir: Path) -> None:
    words = [str(run_dir) if word == "RUN_DIR" else word for word in arguments]
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen([COMMAND, *words], env=environment(), stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    _, complaint = process.communicate(timeout=60)
    assert complaint == ""
    assert process.returncode in (0, 1)


def test_head_gets_its_line_and_nobody_complains(tmp_path: Path) -> None:
    words = " ".join(f"'{word}'" for word in (COMMAND, "simulate", *SMALL, "--scheme", "plain", "--out", "run"))
    found = subprocess.run(
        ["/bin/sh", "-c", f"{words} | head -n 1"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.stderr == ""
    assert found.stdout.startswith("INSECURE")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["complete"] is True


# Ledgers


def test_a_ledger_is_shown_in_full_on_eighty_columns(run_dir: Path, call: Callable[..., Outcome]) -> None:
    found = call("ledger", str(run_dir))
    assert found.code == 0
    assert "…" not in found.out
    with PrivacyLedger.open(run_dir / "ledger.sqlite", read_only=True) as ledger:
        for branch, parent in ledger.branches.items():
            clients = sorted({name for event in ledger.events() for name in event.cohort})
            entries = ledger.epsilon_entries(branch, forgotten=clients, retained=clients)
            paid = {entry.subject.value: entry.value for entry in entries if entry.phase.value == "training+unlearning"}
            expected = [branch, *([parent] if parent else []), "2", "0", "0"]
            expected += [f"{paid[subject]:.2f}" for subject in ("forgotten", "retained")]
            assert expected in [line.split() for line in found.out.splitlines()]
    assert "budget epsilon 8 at delta 1e-05, one record" in found.out


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda file: file.write_bytes(b"this is no database, and long enough to look like one" * 40), "ledger.sqlite"),
        (lambda file: file.write_bytes(file.read_bytes()[:5000]), "ledger.sqlite"),
        (lambda file: file.write_bytes(b""), "not a privacy ledger"),
        (lambda file: (file.unlink(), sqlite3.connect(file).execute("CREATE TABLE t (a)")), "not a privacy ledger"),
        (lambda file: file.unlink(), "holds no ledger.sqlite"),
        (lambda file: (file.unlink(), file.mkdir()), "holds no ledger.sqlite"),
    ],
    ids=["garbage", "truncated", "empty", "foreign", "missing", "folder"],
)
def test_what_is_no_ledger_is_refused(
    change: Callable[[Path], object], named: str, run_dir: Path, tmp_path: Path, call: Callable[..., Outcome]
) -> None:
    shutil.copytree(run_dir, tmp_path / "copy")
    change(tmp_path / "copy" / "ledger.sqlite")
    found = call("ledger", "copy")
    assert found.code == 2
    assert named in found.err
    assert found.err.startswith("secure-fu: ")
    assert found.err.count("\n") == 1
