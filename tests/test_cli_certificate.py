"""`secure-fu verify` and `secure-fu certificate` on certificates, as an auditor and an operator meet them."""

from __future__ import annotations

import json
import re
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "deletion"))
import certificate_cast as cast
from small_federations import federation

from secure_fu.cli import main
from secure_fu.deletion import DeletionRequest
from secure_fu.deletion.policy import DeletionPolicy, write_deletion_policy
from secure_fu.unlearning import Rollback, Scrub

CERTIFICATES = Path("deletion") / "certificates"


class Called:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.text = " ".join(out.split())

    def is_refused(self, code: int, *words: str) -> None:
        assert (self.code, self.out) == (code, ""), (self.out, self.err)
        assert all(line.startswith("secure-fu: ") for line in self.err.splitlines())
        assert "Traceback" not in self.err
        for word in words:
            assert word in self.err, (word, self.err)


@pytest.fixture
def call(monkeypatch, capsys, tmp_path) -> Callable[..., Called]:
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)

    def run_main(*arguments: object) -> Called:
        monkeypatch.setattr(sys, "argv", ["secure-fu", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return Called(int(caught.value.code or 0), captured.out, captured.err)

    return run_main


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A server's directory after two windows, with the models of each as files."""
    directory = tmp_path_factory.mktemp("server")
    folder = directory / CERTIFICATES
    folder.mkdir(parents=True)
    previous = None
    with federation(directory=directory, scheme_name="kahe", rounds=4, resumable=True) as running:
        running.train(rounds=2)
        for number, (request, method) in enumerate(
            (
                (DeletionRequest.some_records("silo-1", (0, 3)), Rollback()),
                (DeletionRequest.some_records("silo-2", (5,)), Scrub(length=1)),
            ),
            start=1,
        ):
            np.save(directory / f"before-{number}.npy", running.state.model.vector)
            previous, _ = cast.executed(
                running, directory, request, method, adaptive=number == 2, disclose=number == 1, previous=previous
            )
            np.save(directory / f"after-{number}.npy", running.state.model.vector)
            name = f"certificate-{number:06}-{previous.body['window']}.json"
            (folder / name).write_bytes(previous.content)
    return directory


@pytest.fixture
def run(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "server"))


def files(run: Path) -> list[Path]:
    return sorted((run / CERTIFICATES).iterdir())


# verify


def test_a_certificate_holds_against_all_that_there_is(call, run):
    first, second = files(run)
    found = call("verify", second, "--roster", run / "roster.bin")
    assert (found.code, found.err) == (0, "")
    for words in ("PROVED", "MIND", "NOT CHECKED", "NOT PROVED", "not one letter", "--transcript", "No audit was run"):
        assert words in found.text
    whole = call(
        "verify", second, "--roster", run / "roster.bin", "--policy", run / "policy.toml",
        "--transcript", run / "transcript.jsonl", "--ledger", run / "ledger.sqlite", "--chain", run / CERTIFICATES,
        "--model-before", run / "before-2.npy", "--model-after", run / "after-2.npy",
    )  # fmt: skip
    assert (whole.code, whole.err) == (0, "")
    assert "NOT CHECKED" not in whole.out
    for words in ("no more and no fewer", "with the 1 before it", "is the one before", "is the one after"):
        assert words in whole.text
    assert re.search(r"forgetting +heuristic", whole.out)
    assert "not named" in whole.text
    assert "silo-2" not in whole.text
    assert "silo-1" in call("verify", first, "--roster", run / "roster.bin").text


def test_json_says_the_same(call, run):
    found = call("verify", files(run)[0], "--roster", run / "roster.bin", "--json")
    said = json.loads(found.out)
    assert said["number"] == 1
    assert {"proved", "attention", "not_checked", "not_proved", "figures"} <= set(said)
    for figure in said["figures"]:
        assert figure["stated"] == pytest.approx(figure["recomputed"], rel=1e-9)


def test_a_folder_of_certificates_is_a_chain(call, run):
    found = call("verify", run / CERTIFICATES, "--roster", run / "roster.bin")
    assert found.code == 0
    assert "Certificate 1 of server" in found.out
    assert "Certificate 2 of server" in found.out
    assert "back to the first" in found.text
    assert len(json.loads(call("verify", run / CERTIFICATES, "--roster", run / "roster.bin", "--json").out)) == 2
    files(run)[0].unlink()
    alone = call("verify", run / CERTIFICATES, "--roster", run / "roster.bin")
    assert "number 1: give their folder" in alone.text


def test_a_certificate_edited_by_one_character_is_refused(call, run):
    """By its content it is still known as one, wherever it was edited; every kind of place once."""
    path = files(run)[0]
    content = path.read_bytes()
    places = [0, 1, 2, 4, 10, 15, 20, 25, len(content) - 1, len(content) - 2, *range(30, len(content), 397)]
    for place in places:
        edited = bytearray(content)
        edited[place] = ord("x") if edited[place] != ord("x") else ord("y")
        path.write_bytes(bytes(edited))
        found = call("verify", path, "--roster", run / "roster.bin")
        found.is_refused(1, path.name)
        assert any(word in found.err for word in ("edited", "missing", "expected", "do not have", "roster")), found.err
        assert "it must not be relied on" in found.err or path.name in found.err


def test_a_run_directory_and_a_transcript_are_verified_as_before(call, run):
    assert "charged every release" in call("verify", run).text
    found = call("verify", run / "transcript.jsonl", "--roster", run / "roster.bin")
    assert "every release is signed by the server" in found.text
    for option in (
        ["--json"],
        ["--deletion-policy", run / "policy.toml"],
        ["--ledger", run / "ledger.sqlite"],
        ["--begins-later"],
    ):
        call("verify", run, *option).is_refused(2, option[0] if isinstance(option[0], str) else "", "certificate")


def test_bad_input_is_told_in_one_line(call, run):
    one = files(run)[0]
    roster = ("--roster", run / "roster.bin")
    call("verify", one).is_refused(2, "--roster", "that you pinned")
    call("verify", one, "--roster", "absent").is_refused(2, "--roster is 'absent'")
    call("verify", one, "--roster", one).is_refused(2, "--roster")
    call("verify", one, *roster, "--policy", one).is_refused(2, "--policy")
    call("verify", one, *roster, "--request", one).is_refused(2, "--request")
    call("verify", one, *roster, "--request", "absent").is_refused(2, "absent")
    for option in ("--transcript", "--ledger", "--model-before", "--model-after", "--audit"):
        call("verify", one, *roster, option, "absent").is_refused(2, f"{option} is 'absent'")
    call("verify", one, *roster, "--chain", one).is_refused(2, "--chain")
    call("verify", one, *roster, "--ledger", one).is_refused(2, "ledger")
    call("verify", one, *roster, "--model-after", one).is_refused(2, "model")
    call("verify", one, *roster, "--transcript", one).is_refused(1, "line 1")
    call("verify", one, *roster, "--audit", one).is_refused(1, "no audit was run")
    call("verify", one, *roster, "--deletion-policy", one).is_refused(2, "--deletion-policy", "a deletion policy")
    call("verify", one, *roster, "--deletion-policy", "absent").is_refused(2, "--deletion-policy", "absent")
    write_deletion_policy(DeletionPolicy(window_start=0, window_seconds=60), run / "deletion.toml")
    unsigned = call("verify", one, *roster, "--deletion-policy", run / "deletion.toml")
    unsigned.is_refused(1, "its requests were not signed")
    call("verify", one, *roster, "--model-after", run / "before-1.npy").is_refused(1, "is not the one after")


def test_it_writes_nothing(call, run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for path in (files(run)[0], run / CERTIFICATES):
        assert call("verify", path, "--roster", run / "roster.bin", "--ledger", run / "ledger.sqlite").code == 0
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


# certificate


def test_the_newest_is_shown_and_any_other_by_number_or_window(call, run):
    windows = [json.loads(path.read_text())["certificate"]["window"] for path in files(run)]
    assert "Certificate 2 of server" in call("certificate", run).out
    for name in ("1", windows[0], windows[0][:8]):
        found = call("certificate", run, name)
        assert "Certificate 1 of server" in found.out
        assert "Not checked here" in found.text
    assert "Certificate 1" in call("certificate", files(run)[0]).out
    assert "Certificate 2" in call("certificate", run / CERTIFICATES).out
    call("certificate", run, "3").is_refused(2, "WINDOW", windows[1][:8])


def test_json_is_the_certificate_itself(call, run):
    assert call("certificate", run, "1", "--json").out.encode() == files(run)[0].read_bytes()


def test_copy_and_page_are_written(call, run, tmp_path):
    found = call("certificate", run, "2", "--out", "mine.json", "--html", "page.html")
    assert found.code == 0
    assert (tmp_path / "mine.json").read_bytes() == files(run)[1].read_bytes()
    page = (tmp_path / "page.html").read_text("utf-8")
    for words in ("Checked when this page was made", "server's own directory", "mine.json", "no more and no fewer"):
        assert words in page
    shutil.copytree(run / CERTIFICATES, tmp_path / "alone")
    call("certificate", "alone", "--html", "alone.html")
    assert "made without checking anything" in (tmp_path / "alone.html").read_text("utf-8")


def test_no_page_of_a_certificate_that_does_not_hold(call, run, tmp_path):
    path = files(run)[1]
    path.write_bytes(path.read_bytes().replace(b'"scrub"', b'"retrain"'))
    call("certificate", run, "--html", "page.html").is_refused(1, "is not what", "signed")
    assert not (tmp_path / "page.html").exists()


def test_places_that_have_no_certificate_are_told(call, run, tmp_path):
    (tmp_path / "empty").mkdir()
    call("certificate", "empty").is_refused(2, "has none yet")
    call("certificate", "absent").is_refused(2, "DIR is 'absent'")
    call("certificate", run / "roster.bin").is_refused(2, "a certificate")
    call("certificate", run, "--out", "absent/x.json").is_refused(2, "--out")
    call("certificate", run, "--html", "empty").is_refused(2, "--html")


def test_a_hostile_certificate_reaches_no_terminal(call, run):
    path = files(run)[0]
    path.write_bytes(path.read_bytes().replace(b'"rollback"', b'"\\u001b[2Jx"', 1))
    for command in (("verify", path, "--roster", run / "roster.bin"), ("certificate", path)):
        found = call(*command)
        assert found.code == 1
        assert "\x1b" not in found.out + found.err


def test_what_is_written_is_for_the_owner(call, run, tmp_path):
    call("certificate", run, "--out", "mine.json")
    assert stat.S_IMODE((tmp_path / "mine.json").stat().st_mode) == 0o600
