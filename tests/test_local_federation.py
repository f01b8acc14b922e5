"""The local federation, told by its command over sockets: what it leaves, what it says, and that nothing runs on."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command import COMMAND, ESCAPE, environment, run
from rich.console import Console
from sklearn.datasets import load_digits
from waiting import wait_until

from secure_fu.cli.local_teller import ConsoleTeller, write_recording
from secure_fu.deletion import RequestQueue, WindowState
from secure_fu.deletion.certificates import CertificateError, Evidence, check_certificate, read_certificate
from secure_fu.deployment.founding.setup import read_roster
from secure_fu.errors import ArgumentError
from secure_fu.local_federation.commands import CommandFailed, Said, run_command
from secure_fu.local_federation.flower_app import write_flower_app
from secure_fu.local_federation.interrupts import Interrupts
from secure_fu.local_federation.parties import Cast, digits
from secure_fu.protocol import read_policy

ROOT = Path(__file__).resolve().parents[1]


def running(folder: Path) -> list[str]:
    """Commands of processes of this machine that name a folder, in their words or in what they were started with."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words, given = ((entry / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ"))
        except OSError:
            continue
        if str(folder) in words + given:
            found.append(words.replace("\0", " "))
    return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The whole story, once: its folder, and the finished command."""
    folder = tmp_path_factory.mktemp("local")
    words = ["local", "--transport", "sockets", "--out", "run", "--record", "local.svg"]
    done = subprocess.run(
        [COMMAND, *words], cwd=folder, env=environment(), capture_output=True, text=True, timeout=280, check=False
    )
    return folder, done


def test_the_story_ends_with_a_certificate_that_verifies(told: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = told
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert ESCAPE not in done.stdout
    out = folder / "run"
    evidence = Evidence(
        policy=read_policy(out / "nodes/node-1/policy.toml"), transcript=out / "server/transcript.jsonl"
    )
    roster = read_roster(out / "nodes/node-1/roster.bin")
    certificate = read_certificate(out / "certificate.json")
    findings = check_certificate(certificate, roster=roster, evidence=evidence)
    assert findings.proved
    assert [one["client"] for one in certificate.body["wiped"]] == [f"hospital-{place}" for place in range(1, 7)]
    assert certificate.body["unconfirmed"] == []
    assert certificate.body["method"]["name"] == "rollback"
    with pytest.raises(CertificateError):
        check_certificate(read_certificate(out / "edited.json"), roster=roster, evidence=evidence)
    with RequestQueue(out / "server/deletion/queue.sqlite", read_only=True) as queue:
        assert [window.state for window in queue.windows()] == [WindowState.CERTIFIED]
    again = run(*("verify", "run/certificate.json", "--roster", "run/nodes/node-3/roster.bin", "--json"), cwd=folder)
    assert again.returncode == 0, again.stderr


def test_what_is_said_is_so(told: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = told
    out = folder / "run"
    lines = (out / "server/transcript.jsonl").read_text().splitlines()
    rounds = tomllib.loads((out / "federation.toml").read_text())["plan"]["rounds"]
    assert f"{rounds} rounds, {6 * rounds} uploads" in done.stdout
    said = " ".join(done.stdout.split())
    window = re.search(r"back to round (\d+) of \d+ and ran (\d+) rounds again", said)
    assert window is not None
    assert int(window[1]) + int(window[2]) == rounds
    assert int(window[2]) == len(lines) - rounds
    assert int(window[2]) == read_certificate(out / "certificate.json").body["transcript"]["rounds"]
    killed = re.search(r"node-2 \(process (\d+)\) got SIGKILL.*?\(process (\d+)\)", said)
    assert killed is not None
    assert killed[1] != killed[2]
    before, after = (float(one) for one in re.findall(r"(\d+\.\d)% (?:before|after)", done.stdout))
    assert before > 50.0  # of ten classes
    assert after > 30.0
    # Every key is with its machine alone, and every node's data with the node.
    keys = sorted(path.relative_to(out).as_posix() for path in out.rglob("keys.bin"))
    assert keys == [*(f"nodes/node-{place}/keys.bin" for place in range(1, 7)), "server/keys.bin"]
    assert {path.stat().st_mode & 0o777 for path in out.rglob("keys.bin")} == {0o600}
    assert len(list(out.rglob("records.npz"))) == 6
    assert not list((out / "server").rglob("*.npz"))


def test_no_process_is_left(told: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = told
    assert running(folder) == []
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", str(folder)]) as process:
        try:
            wait_until(lambda: running(folder), "the search finds what it looks for", seconds=30.0)
        finally:
            process.kill()


def test_it_is_recorded(told: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = told
    drawn = (folder / "local.svg").read_text()
    assert drawn.startswith("<svg")
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")  # it fetches nothing
    assert "SIGKILL" in drawn
    assert done.stdout.splitlines()[-2:] == ["Recorded: local.svg", "Certificate: run/certificate.json"]


def test_a_folder_is_used_once(told: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = told
    before = sorted(path for path in (folder / "run").rglob("*"))
    again = run("local", "--transport", "sockets", "--out", "run", cwd=folder)
    assert again.returncode == 2
    assert again.stderr.startswith("secure-fu: --out is 'run'")
    assert "new or empty folder" in again.stderr
    assert sorted(path for path in (folder / "run").rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--transport", "carrier-pigeon"], "--transport"),
        (["--record", "story.txt"], "--record"),
        (["--record", "nowhere/story.svg"], "--record"),
    ],
)
def test_bad_options_are_named(words: list[str], option: str, tmp_path: Path) -> None:
    done = run("local", *words, "--out", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"secure-fu: {option} is ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("transport", "moment"), [("sockets", "3. A process"), ("sockets", "4. Training"), ("flower", "4. Training")]
)
def test_an_interrupt_ends_every_process(transport: str, moment: str, tmp_path: Path) -> None:
    if transport == "flower":
        pytest.importorskip("flwr")
    with subprocess.Popen(
        [COMMAND, "local", "--transport", transport, "--out", str(tmp_path / "run")],
        env={**environment(), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert process.stdout is not None
            while moment not in process.stdout.readline():
                assert process.poll() is None
            wait_until(lambda: running(tmp_path), "a process of the federation runs")
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            os.killpg(process.pid, signal.SIGINT)  # by an impatient person
            _, complaint = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert complaint.splitlines() == ["secure-fu: interrupted; every process that was started is ended"]
    assert running(tmp_path) == []


# Interrupts

STARTS = """
import os, signal, subprocess, sys, time
from secure_fu.local_federation.interrupts import Interrupts
with Interrupts() as interrupts:
    subprocess.Popen(["sh", "-c", "sleep 600 & wait", sys.argv[1]], start_new_session=True)
    orphan = "import os, sys; os.fork() or (os.setsid(), os.execlp('sh', 'sh', '-c', 'sleep 600; true', sys.argv[1]))"
    subprocess.run([sys.executable, "-c", orphan, sys.argv[1]])
    subprocess.Popen(["sh", "-c", "sleep 600; true", sys.argv[1]])
    {body}
"""


@pytest.mark.parametrize(
    ("body", "code", "output"),
    [
        ("os.kill(os.getpid(), signal.SIGTERM); print('never')", 1, ""),
        ("pass", 0, ""),  # children that nobody ended
        (
            "with interrupts.held():\n        os.kill(os.getpid(), signal.SIGINT); print('held')\n    print('never')",
            1,
            "held",
        ),
    ],
)
def test_children_end_with_the_block(body: str, code: int, output: str, tmp_path: Path) -> None:
    script = tmp_path / "starts.py"
    script.write_text(STARTS.replace("{body}", body))
    mark = str(tmp_path / "mark")
    done = subprocess.run(
        [sys.executable, str(script), mark],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert done.stdout.strip() == output
    assert bool(done.returncode) == bool(code), done.stderr
    assert ("KeyboardInterrupt" in done.stderr) == bool(code)
    assert running(tmp_path) == []


def test_without_it_children_run_on(tmp_path: Path) -> None:
    """What the guarantee is about: the test above finds what it looks for."""
    child = subprocess.Popen(["sh", "-c", "sleep 600 & wait", str(tmp_path)], start_new_session=True)
    try:
        wait_until(lambda: running(tmp_path), "the search finds the child")
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def test_handlers_are_given_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


# Parts


def test_no_record_is_at_two_places() -> None:
    parts, test = digits(6)
    features = np.concatenate([features for features, _ in [*parts, test]])
    assert sorted(map(bytes, features)) == sorted(map(bytes, load_digits().data / 16.0))
    assert max(len(labels) for _, labels in parts) - min(len(labels) for _, labels in parts) <= 1
    assert len(test[1]) == 360


def test_the_app_is_the_examples(tmp_path: Path) -> None:
    written = write_flower_app(tmp_path / "app")
    example = ROOT / "examples" / "flower"
    own, other = (tomllib.loads((folder / "pyproject.toml").read_text()) for folder in (written, example))
    assert own == other
    for name in ("client_app", "server_app"):
        files = [folder / "secure_fu_app" / f"{name}.py" for folder in (written, example)]
        lines = [file.read_text().splitlines()[2:] for file in files]  # but for the docstring
        code = [[line for line in text if line and "__future__" not in line] for text in lines]
        assert code[0] == code[1]


def test_a_cast_names_its_nodes() -> None:
    assert Cast.hospitals().requester == "hospital-2"
    with pytest.raises(ArgumentError) as caught:
        Cast(nodes={"node-1": ("hospital-1",)}, asks="node-9")
    assert caught.value.argument == "asks"


def test_a_command_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="pending nowhere ended with code 2, not 0"):
        run_command(["pending", "nowhere"], folder=tmp_path)
    said = run_command(["pending", "nowhere"], folder=tmp_path, expected=2)
    assert said.complaint.startswith("secure-fu: DIR is 'nowhere'")


# The recording


def tale() -> ConsoleTeller:
    quiet = Console(file=io.StringIO(), width=80)
    teller = ConsoleTeller(quiet, quiet, folder="runs/x", transport="sockets")
    teller.step("A step")
    words = "secure-fu verify " + "word " * 30 + "end"
    teller.ran(Said(command="secure-fu certificate", output="a\n\nb", complaint="", code=0))
    teller.ran(Said(command=words, output="no\nPROVED\n- it", complaint="", code=1), since="PROVED")
    return teller


def test_a_recording_goes_between_its_markers(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    document = tmp_path / "story.md"
    document.write_text("Before\n\n<!-- story -->\nold\n<!-- /story -->\n\nAfter\n")
    picture = tmp_path / "images" / "story.svg"
    assert write_recording(tale().recording, picture) == [picture, document]
    once = document.read_text()
    assert once.startswith("Before\n\n<!-- story -->\n\n```text\n$ secure-fu local --transport sockets\n\n1. A step\n")
    assert once.endswith("   [...]\n   PROVED\n   - it\n   exit code 1\n```\n\n<!-- /story -->\n\nAfter\n")
    assert "   $ secure-fu certificate\n   a\n\n   b\n   $ secure-fu verify" in once
    assert "old" not in once
    assert max(map(len, once.splitlines())) <= 100
    # A command in several lines is still that command.
    typed = once[once.index("$ secure-fu verify") : once.index("[...]")]
    assert typed.replace("\\\n", "").split() == ["$", "secure-fu", "verify", *["word"] * 30, "end"]
    write_recording(tale().recording, picture)
    assert document.read_text() == once


def test_a_document_without_markers_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "story.md").write_text("Before\n<!-- story -->\n")
    with pytest.raises(ArgumentError) as caught:
        write_recording(tale().recording, tmp_path / "story.svg")
    assert caught.value.argument == "--record"
    assert (tmp_path / "story.md").read_text() == "Before\n<!-- story -->\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_terminals(terminal: bool) -> None:
    story, progress = io.StringIO(), io.StringIO()
    teller = ConsoleTeller(
        Console(file=story, width=80),
        Console(file=progress, force_terminal=terminal, width=80),
        folder="runs/x",
        transport="sockets",
    )
    with teller.waiting("training") as news:
        news("7 sums released")
        while terminal and "7 sums" not in progress.getvalue():  # a thread draws it
            time.sleep(0.01)
    assert ("training: 7 sums released" in progress.getvalue()) == terminal
    assert ESCAPE not in story.getvalue()
    assert "7 sums" not in story.getvalue() + teller.recording.export_text()
