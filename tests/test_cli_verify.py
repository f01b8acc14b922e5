"""`secure-fu verify` as an auditor meets it: what it prints, what it refuses, its exit codes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from secure_fu.cli import main
from secure_fu.deletion import DeletionRequest
from secure_fu.federation import Federation
from secure_fu.learning import Records, mlp
from secure_fu.planning import make_plan
from secure_fu.privacy import Budget, PrivacyLedger
from secure_fu.protocol import read_policy, write_policy
from secure_fu.unlearning import Retrain

COMMAND = str(Path(sys.executable).with_name("secure-fu"))
ROUNDS = 2


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """What was said, on one line."""
        return " ".join(self.out.split())

    def is_refused(self, code: int, *words: str) -> None:
        """One line of complaint, no traceback, nothing that looks like a result."""
        assert self.code == code, (self.out, self.err)
        assert self.out == ""
        assert self.err.startswith("secure-fu: ")
        assert self.err.count("\n") == 1
        for word in words:
            assert word in self.err


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Outcome]:
    """The entry point in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)

    def run_main(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["secure-fu", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return Outcome(code=int(caught.value.code or 0), out=captured.out, err=captured.err)

    return run_main


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished federation of each scheme, with one branch."""
    draw = np.random.default_rng(1)
    found = {}
    for scheme in ("kahe", "bfv", "plain"):
        silos = {f"client-{n}": Records.from_arrays(draw.normal(size=(8, 4)), draw.integers(0, 2, 8)) for n in range(4)}
        plan = make_plan(
            mlp(4, (), 2, 0), clients=4, nominal_units=32, minimum_cohort=3, rounds=ROUNDS, sampling_rate=0.5
        )
        found[scheme] = tmp_path_factory.mktemp(scheme)
        federation = Federation(mlp(4, (), 2, 0), silos, plan=plan, scheme_name=scheme, directory=found[scheme])
        federation.train()
        federation.unlearn(DeletionRequest.whole_client("client-3"), Retrain(), adaptive=False)
        federation.close()
    return found


@pytest.fixture
def run_dir(made: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to play with, of scheme kahe."""
    return Path(shutil.copytree(made["kahe"], tmp_path / "run"))


def lines_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "transcript.jsonl").read_text(encoding="utf-8").splitlines()]


# What holds


@pytest.mark.parametrize("scheme", ["kahe", "bfv", "plain"])
def test_a_finished_run_holds(made: dict[str, Path], call: Callable[..., Outcome], scheme: str) -> None:
    found = call("verify", str(made[scheme]))
    assert (found.code, found.err) == (0, "")
    lines = lines_of(made[scheme])
    for branch in ("original", "unlearn/retrain"):
        (*_, last) = [line for line in lines if line["branch"] == branch]
        assert f"{last['hash']}  {branch}\n" in found.out
        opener = "committee of 10, quorum 7, at most 3 corrupt" if scheme == "kahe" else "key-holder key-holder"
        assert re.search(rf"^{branch} +{ROUNDS} +{opener} *$", found.out, re.MULTILINE)
    roster = (made[scheme] / "roster.bin").read_bytes()
    assert hashlib.sha256(roster).hexdigest() in found.out
    assert "charged every release" in found.text
    assert f"keeps to the policy in {made[scheme]}/policy.toml".replace(" ", "") in found.text.replace(" ", "")
    assert ("INSECURE: --scheme plain" in found.out) is (scheme == "plain")


def test_it_says_what_was_not_checked_and_what_was_not_pinned(call: Callable[..., Outcome], run_dir: Path) -> None:
    found = call("verify", "run")
    assert "Not checked, for a transcript cannot show it: that a released sum is the sum of the uploads" in found.text
    assert "NOT PINNED: the roster and the policy came from the run directory itself" in found.text
    (run_dir.parent / "mine").mkdir()
    for name in ("roster.bin", "policy.toml"):
        shutil.copy(run_dir / name, run_dir.parent / "mine" / name)
    half = call("verify", "run", "--roster", "mine/roster.bin")
    assert "NOT PINNED: the policy came from the run directory itself" in half.text
    assert "--policy FILE" in half.text
    assert "--roster FILE" not in half.text
    own = call("verify", "run", "--roster", "mine/roster.bin", "--policy", "mine/policy.toml")
    assert "NOT PINNED" not in own.out
    assert "Every round keeps to the policy in mine/policy.toml." in own.text
    assert {found.code, half.code, own.code} == {0}


def test_a_transcript_alone_needs_a_roster(call: Callable[..., Outcome], run_dir: Path) -> None:
    call("verify", "run/transcript.jsonl").is_refused(2, "--roster", "the roster's file")
    found = call("verify", "run/transcript.jsonl", "--roster", "run/roster.bin")
    assert found.code == 0
    assert "NOT PINNED" not in found.out
    assert "ledger" not in found.out
    assert "Not checked, for want of a policy (--policy)" in found.text
    with_policy = call("verify", "run/transcript.jsonl", "--roster", "run/roster.bin", "--policy", "run/policy.toml")
    assert with_policy.code == 0
    assert "for want of a policy" not in with_policy.text


def test_a_run_without_policy_or_ledger_is_checked_as_far_as_it_goes(
    call: Callable[..., Outcome], run_dir: Path
) -> None:
    (run_dir / "policy.toml").unlink()
    (run_dir / "ledger.sqlite").unlink()
    found = call("verify", "run")
    assert found.code == 0
    assert "for want of a policy" in found.text
    assert "NOT PINNED: the roster came from" in found.text
    assert "ledger" not in found.out


def test_a_run_that_released_nothing_is_said_to_have_released_nothing(
    call: Callable[..., Outcome], run_dir: Path
) -> None:
    (run_dir / "transcript.jsonl").write_bytes(b"")
    found = call("verify", "run")
    assert found.code == 0
    assert "Nothing to check" in found.text
    assert "Checked: every release" not in found.text
    assert f"charged {2 * ROUNDS} more rounds without a release here" in found.text


def test_lines_missing_at_the_end_show_in_the_ledger(call: Callable[..., Outcome], run_dir: Path) -> None:
    path = run_dir / "transcript.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    found = call("verify", "run")
    assert found.code == 0
    assert "charged 1 more round without a release here" in found.text


def test_it_writes_nothing(call: Callable[..., Outcome], run_dir: Path) -> None:
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}

    before = content()
    assert call("verify", "run").code == 0
    assert content() == before


def test_the_command_in_a_pipe_has_no_escapes_and_whole_hashes(run_dir: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "COLUMNS")}
    done = subprocess.run(
        [COMMAND, "verify", str(run_dir)], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert len(re.findall(r"\b[0-9a-f]{64}\b", done.stdout)) == 3


def test_help_says_what_it_takes(call: Callable[..., Outcome]) -> None:
    found = call("verify", "--help")
    assert found.code == 0
    for word in ("PATH", "--roster", "--policy"):
        assert word in found.out
    assert "verify" in call("--help").out


# What does not hold


def test_a_touched_transcript_is_told_in_one_line(call: Callable[..., Outcome], run_dir: Path) -> None:
    path = run_dir / "transcript.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[1].replace('"minimum_cohort": 3', '"minimum_cohort": 4'), *lines[2:]]))
    call("verify", "run").is_refused(1, "transcript.jsonl, line 2: ")
    path.write_text("".join([lines[0], *lines[2:]]))
    call("verify", "run").is_refused(1, "follow")
    path.write_bytes(b"\xff\xfe\n")
    call("verify", "run").is_refused(1, "transcript.jsonl")


def test_another_federations_roster_is_told(call: Callable[..., Outcome], run_dir: Path, made: dict[str, Path]) -> None:
    other = str(made["bfv"] / "roster.bin")
    call("verify", "run/transcript.jsonl", "--roster", other).is_refused(1, "line 1: ")
    call("verify", "run", "--roster", other).is_refused(2, "--policy", "a policy for the roster in")


def test_a_stricter_policy_is_told(call: Callable[..., Outcome], run_dir: Path) -> None:
    policy = read_policy(run_dir / "policy.toml")
    write_policy(replace(policy, noise_multiplier=2 * policy.noise_multiplier), run_dir / "strict.toml")
    found = call("verify", "run", "--policy", "run/strict.toml")
    found.is_refused(1, "line 1: header field noise_multiplier", "this party's policy allows")


def test_a_ledger_that_does_not_know_a_release_is_told(call: Callable[..., Outcome], run_dir: Path) -> None:
    (run_dir / "ledger.sqlite").unlink()
    budget = Budget(
        epsilon=8.0, delta=1e-5, order=4.0, deletion_reserve=0.5, unit=read_policy(run_dir / "policy.toml").unit
    )
    PrivacyLedger.create(run_dir / "ledger.sqlite", budget=budget).close()
    call("verify", "run").is_refused(1, "round 0 of branch 'original'", "the ledger does not say so")


# Bad input


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda run: shutil.rmtree(run), ("PATH is 'run'", "an existing run directory or transcript file")),
        (lambda run: [shutil.rmtree(run), run.mkdir()], ("holds no transcript.jsonl and no roster.bin",)),
        (lambda run: (run / "transcript.jsonl").unlink(), ("holds no transcript.jsonl;",)),
        (lambda run: (run / "roster.bin").unlink(), ("holds no roster.bin;",)),
        (lambda run: [(run / "roster.bin").unlink(), (run / "roster.bin").mkdir()], ("holds no roster.bin;",)),
        (lambda run: (run / "roster.bin").write_bytes(b""), ("--roster is 'run/roster.bin'", "magic is missing")),
        (lambda run: (run / "roster.bin").write_bytes(os.urandom(500)), ("--roster is 'run/roster.bin'",)),
        (
            lambda run: (run / "policy.toml").write_text("x ="),
            ("--policy is 'run/policy.toml'", "not a readable policy"),
        ),
        (lambda run: (run / "policy.toml").write_text(""), ("--policy is 'run/policy.toml'", "server is None")),
        (lambda run: (run / "policy.toml").write_bytes(b"\xff"), ("--policy is 'run/policy.toml'",)),
        (lambda run: (run / "ledger.sqlite").write_bytes(b"no ledger"), ("ledger.sqlite",)),
    ],
    ids=range(11),
)
def test_bad_input_is_told_in_one_line(
    spoil: Callable[[Path], object], words: tuple[str, ...], call: Callable[..., Outcome], run_dir: Path
) -> None:
    spoil(run_dir)
    call("verify", "run").is_refused(2, *words)


@pytest.mark.parametrize("option", ["--roster", "--policy"])
def test_a_file_that_an_option_names_has_to_be_there(call: Callable[..., Outcome], run_dir: Path, option: str) -> None:
    call("verify", "run", option, "absent").is_refused(2, f"{option} is 'absent'", "No such file")
    call("verify", "run", option, "run").is_refused(2, f"{option} is 'run'")
    call("verify", "run", option, "run/transcript.jsonl").is_refused(2, f"{option} is 'run/transcript.jsonl'")


@pytest.mark.parametrize("name", ["transcript.jsonl", "roster.bin", "policy.toml"])
def test_a_file_that_may_not_be_read_is_told(
    call: Callable[..., Outcome], run_dir: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def refusing(path: Path, *arguments: object, **named: object) -> object:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refusing)  # file modes would not stop a test that runs as root
    call("verify", "run").is_refused(2, "Permission denied")


def test_what_is_neither_file_nor_folder_is_told(call: Callable[..., Outcome], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("pipe", "", "a" * 5000, "/dev/null"):
        found = call("verify", path, "--roster", "pipe")
        assert found.code == 2, path
        assert "Traceback" not in found.err
    assert call("verify").code == 2


def test_a_hostile_branchs_name_reaches_no_terminal(call: Callable[..., Outcome], run_dir: Path) -> None:
    path = run_dir / "transcript.jsonl"
    lines = lines_of(run_dir)
    (run_dir / "ledger.sqlite").unlink()
    for name in ("\x1b[2Jgone", "[bold red]x[/bold red]", "[/]"):
        path.write_text("".join(json.dumps({**line, "branch": name + str(line["branch"])}) + "\n" for line in lines))
        found = call("verify", "run")
        assert "\x1b" not in found.out + found.err
        assert found.code == (1 if "\x1b" in name else 0)
        assert name in found.out or found.code == 1


def test_releases_in_the_file_are_the_messages_themselves(run_dir: Path) -> None:
    """What an auditor's own program would start from."""
    for line in lines_of(run_dir):
        body = base64.b64decode(str(line["release"]))
        assert hashlib.sha256(body).hexdigest() == line["hash"]


def test_a_ledger_in_use_by_nobody_is_opened_for_reading_only(call: Callable[..., Outcome], run_dir: Path) -> None:
    """A run on read-only media can be verified; and a run that goes on is not disturbed."""
    with sqlite3.connect(run_dir / "ledger.sqlite") as connection:
        before = connection.execute("PRAGMA data_version").fetchone()
        assert call("verify", "run").code == 0
        assert connection.execute("PRAGMA data_version").fetchone() == before
    connection.close()
