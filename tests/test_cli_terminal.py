"""The command line at a terminal: interrupts, kills, progress."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from command import COMMAND, ESCAPE, SMALL, environment, run

from secure_fu.crypto import Roster
from secure_fu.privacy import PrivacyLedger
from secure_fu.protocol import read_policy, verify_transcript
from secure_fu.report import validate_result

# Interrupts


def branches_of(folder: Path) -> list[str]:
    try:
        lines = (folder / "transcript.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["branch"] for line in lines]
    except (FileNotFoundError, json.JSONDecodeError):
        return []


@pytest.mark.parametrize(
    ("branch", "settings", "rows"),
    [
        ("original", ["training.rounds=300"], []),
        (
            "unlearn/finetune",
            ['unlearning.methods=["finetune"]', "unlearning.settings.finetune.length=300"],
            ["original", "retrained"],
        ),
    ],
)
def test_an_interrupt_leaves_a_consistent_directory(
    branch: str, settings: list[str], rows: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = [word for setting in settings for word in ("--set", setting)]
    with subprocess.Popen(
        [COMMAND, "simulate", *SMALL, *options, "--out", str(out)],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job, as these tests may be part of, ignores interrupts and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            deadline = time.monotonic() + 90.0
            while branches_of(out).count(branch) < 3 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: everybody in the foreground gets it
            output, complaint = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert complaint.splitlines() == [
        "secure-fu: interrupted",
        f"secure-fu: what was done is in {out}, marked incomplete",
    ]
    assert output == ""
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    validate_result(result)
    assert result["complete"] is False
    assert [row["name"] for row in result["rows"]] == rows
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    names -= {path.relative_to(out).as_posix() for path in (out / "checkpoints").iterdir()}
    branches = ["original", *(["unlearn-retrain", "unlearn-finetune"] if rows else [])]
    assert names == {
        *("config.toml", "result.json", "ledger.sqlite", "transcript.jsonl"),
        *("roster.bin", "policy.toml", "committee.sqlite"),
        *(f"clients/{name}.sqlite" for name in branches),
        *(f"models/{row}.safetensors" for row in rows),
    }
    pinned = Roster.decode((out / "roster.bin").read_bytes())
    checked = verify_transcript(out / "transcript.jsonl", roster=pinned, policy=read_policy(out / "policy.toml"))
    assert [found.name.replace("/", "-") for found in checked] == branches
    with PrivacyLedger.open(out / "ledger.sqlite", read_only=True) as ledger:
        released = len(ledger.rounds(branch))
        # the interrupt may fall between the ledger's commit and the transcript's line
        assert released - branches_of(out).count(branch) in (0, 1)
        assert 3 <= released < 300
        assert len(ledger.pending()) <= 1


def test_a_run_that_is_killed_leaves_a_result_that_is_not_complete(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [COMMAND, "simulate", *SMALL, "--set", "training.rounds=300", "--scheme", "plain", "--out", str(out)]
    with subprocess.Popen(words, env=environment()) as process:
        deadline = time.monotonic() + 90.0
        while len(branches_of(out)) < 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    validate_result(result)
    assert result["complete"] is False
    assert not list(out.rglob("*.part"))
    shown = run("ledger", str(out), cwd=tmp_path)
    assert shown.returncode == 0
    assert "original" in shown.stdout


# Terminals


class Screen:
    """Enough of a terminal to see what progress bars leave on it."""

    _TOKEN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+")

    def __init__(self) -> None:
        self._lines = [""]
        self._row = self._column = 0

    def feed(self, text: str) -> None:
        for token in self._TOKEN.findall(text):
            if token == "\r":
                self._column = 0
            elif token == "\n":
                self._row += 1
                self._lines.extend([""] * (self._row + 1 - len(self._lines)))
            elif token.startswith(ESCAPE):
                self._control(token)
            else:
                line = self._lines[self._row].ljust(self._column)
                self._lines[self._row] = line[: self._column] + token + line[self._column + len(token) :]
                self._column += len(token)

    def _control(self, token: str) -> None:
        if token.endswith("A"):
            self._row = max(0, self._row - int(token[2:-1] or 1))
        elif token.endswith("K"):
            self._lines[self._row] = ""

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._lines if line.strip()]


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str]:
    """Exit code and raw output of a run on a terminal."""
    controller, terminal_side = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "simulate", *SMALL, "--out", "run"],
        cwd=tmp_path_factory.mktemp("terminal"),
        env={**environment(), "TERM": "xterm-256color"},
        stdin=terminal_side,
        stdout=terminal_side,
        stderr=terminal_side,
    )
    os.close(terminal_side)
    chunks = [b""]
    with suppress(OSError), os.fdopen(controller, "rb", buffering=0) as reader:  # Linux ends a terminal with an error
        while chunk := reader.read(65536):
            chunks.append(chunk)
    return process.wait(timeout=60), b"".join(chunks).decode()


PHASES = ["preparing", "training", "retrained from scratch", "writing the report"]


def test_finished_phases_stay_on_the_terminal(terminal: tuple[int, str]) -> None:
    code, raw = terminal
    assert code == 0
    assert ESCAPE in raw
    screen = Screen()
    screen.feed(raw)
    bars = [line for line in screen.lines if line.startswith("✓")]
    assert [re.split(r"\s{2,}|\s━", line[1:].strip())[0] for line in bars] == PHASES
    assert [re.search(r"(\d+)/(\d+)", line).groups() for line in bars] == [  # type: ignore[union-attr]
        ("1", "1"),
        ("2", "2"),
        ("2", "2"),
        ("1", "1"),
    ]
    after = screen.lines[screen.lines.index(bars[-1]) + 1 :]
    assert any(line.startswith("retrained") for line in after)
    assert after[-1] == "Report: run/report.html"


def test_the_running_phase_is_at_the_bottom(terminal: tuple[int, str]) -> None:
    raw = terminal[1]
    frames = [match.start() for match in re.finditer(r"\r\x1b\[2K", raw)]
    seen = set()
    for end in frames:
        screen = Screen()
        screen.feed(raw[:end])
        finished = screen.lines[:-1]
        assert all(line.startswith("✓") for line in finished)
        seen.add(len(finished))
    assert seen >= {1, 2}
