"""Stored formats: what former versions wrote is read, what newer ones write is refused."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from small_federations import REQUESTS, federation, silos

from secure_fu.errors import LedgerError, RecordError
from secure_fu.federation import Federation
from secure_fu.federation.founding import declared_methods, read_founding
from secure_fu.federation.main_line_file import read_standing
from secure_fu.federation.stored_formats import FORMATS, NewerFormat, stored, upgrade
from secure_fu.learning import mlp
from secure_fu.privacy import PrivacyLedger, Unit
from secure_fu.unlearning import METHODS, Exact, Newton, Retrain, Scrub, methods_text
from secure_fu.unlearning.newton import HessianForm

# Made by the last commit that wrote main-line/1, with tests/small_federations.py of then: three rounds of training,
# then records 0, 3 and 7 of silo-1 deleted by rollback; killed when the deletion was written down and nobody had wiped.
FORMER = Path(__file__).parent / "vectors" / "main_line_1.tar.xz"


@pytest.fixture
def former(tmp_path) -> Path:
    with tarfile.open(FORMER) as packed:
        if hasattr(tarfile, "data_filter"):  # from Python 3.11.4 on
            packed.extraction_filter = tarfile.data_filter
        packed.extractall(tmp_path)
    return tmp_path / "federation"


def versions(directory: Path) -> dict[str, set[int | None]]:
    found: dict[str, set[int | None]] = {}
    for one in stored(directory):
        found.setdefault(one.format.name, set()).add(one.version)
    return found


def test_all_that_a_federation_keeps_has_a_format_that_is_recognised(tmp_path):
    with federation(directory=tmp_path, resumable=True) as federated:
        federated.train()
        federated.delete(REQUESTS[Unit.RECORD], Retrain(), adaptive=False)
    current = {one.name: one.version for one in FORMATS}
    found = versions(tmp_path)
    assert {"main-line", "federation", "checkpoint", "history", "ledger", "client-record"} <= set(found)
    assert all(found[name] == {current[name]} for name in found)
    assert upgrade(tmp_path) == ()


def test_the_former_main_line_is_refused_as_it_is(former):
    with pytest.raises(RecordError):
        read_standing(former)


def test_the_former_main_line_is_upgraded_and_the_federation_goes_on(former):
    before = json.loads((former / "main_line.json").read_bytes())
    assert before["format"] == "secure-fu/main-line/1"
    with PrivacyLedger.open(former / "ledger.sqlite") as ledger:
        spent = ledger.epsilon_entries("unlearn/rollback", retained=["silo-0"])
    assert [(one.path.name, one.version) for one in upgrade(former)] == [("main_line.json", 1), ("federation.json", 1)]
    after = json.loads((former / "main_line.json").read_bytes())
    assert after["format"] == "secure-fu/main-line/2"
    # Rolled back to the start: nothing of the three rounds before may be remembered.
    assert (after["line"]["remembered"], after["line"]["until"]) == (-1, 2)
    assert {key: value for key, value in after["line"].items() if key in before["line"]} == before["line"]
    with Federation.open(former, mlp(5, (), 3, 0), silos()) as federated:
        (executed,) = federated.executed
        assert isinstance(executed.guarantee, Exact)
        assert federated.state.rounds == 3
        assert federated.ledger.epsilon_entries("unlearn/rollback", retained=["silo-0"]) == spent
        assert np.flatnonzero(federated._line.gone["silo-1"]).tolist() == [0, 3, 7]
    assert upgrade(former) == ()


def test_the_former_founding_is_upgraded_and_names_the_same_methods(former):
    """Version 1 had them as Python prints them, version 2 has them by name, with JSON."""
    path = former / "federation.json"
    before = json.loads(path.read_bytes())["founding"]
    assert "FineTune(length=10)" in before["facts"]["methods"].split("; ")
    read = read_founding(path)  # as a backup does, before anything is upgraded
    upgrade(former)
    after = json.loads(path.read_bytes())
    assert after["format"] == "secure-fu/federation/2"
    assert read_founding(path) == read
    assert after["founding"]["facts"]["methods"] == methods_text(kind() for kind in METHODS.values())
    assert {**after["founding"], "facts": None} == {**before, "facts": None}
    assert {**after["founding"]["facts"], "methods": None} == {**before["facts"], "methods": None}


def as_version_1(path: Path, methods: str) -> bytes:
    """A founding of version 1 with other methods, and a hash that fits."""
    values = json.loads(path.read_bytes())["founding"]
    values["facts"]["methods"] = methods
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"format": "secure-fu/federation/1", "sha256": digest, "founding": values}))
    return path.read_bytes()


def test_every_kind_of_setting_of_a_former_founding_is_read(former):
    path = former / "federation.json"
    methods = [Newton(forget_epsilon=2.5, hessian=HessianForm.SUM), Scrub(sharpness=math.inf), Retrain()]
    for declared in (methods, []):
        as_version_1(path, "; ".join(sorted(repr(method) for method in declared)))
        upgrade(former)
        assert declared_methods(read_founding(path)) == frozenset(declared)


@pytest.mark.parametrize(
    "methods", ["Decay(length=3)", "Scrub", "Scrub(3)", "Scrub(length=open('/'))", "Scrub(length=("]
)
def test_a_former_founding_with_something_else_than_the_packages_methods_is_refused_as_it_is(former, methods):
    path = former / "federation.json"
    content = as_version_1(path, methods)
    with pytest.raises(RecordError, match=r"federation\.json cannot be brought to version 2"):
        upgrade(former)
    with pytest.raises(RecordError):
        read_founding(path)
    assert path.read_bytes() == content


def test_a_damaged_former_founding_is_refused_as_it_is(former):
    path = former / "federation.json"
    path.write_text(path.read_text().replace("FineTune(length=10)", "FineTune(length=11)"))
    content = path.read_bytes()
    with pytest.raises(RecordError, match="not what was written"):
        upgrade(former)
    assert path.read_bytes() == content


def remembered(directory: Path) -> set[int]:
    """Rounds that clients still remember, on disk."""
    return {int(path.name[6:14]) for path in (directory / "histories" / "clients").rglob("round-*.safetensors")}


def test_what_a_killed_wiping_has_left_is_wiped_after_the_upgrade(former):
    """The process that wrote the file was killed before its clients had forgotten the rounds that knew the data."""
    assert {0, 1, 2} <= remembered(former)
    upgrade(former)
    Federation.open(former, mlp(5, (), 3, 0), silos()).close()
    assert not {0, 1, 2} & remembered(former)


def test_an_upgrade_that_names_no_rounds_would_leave_them(former):
    """The broken variant: it opens as well, and the clients remember what they must not."""
    upgrade(former)
    path = former / "main_line.json"
    line = json.loads(path.read_bytes())["line"] | {"until": -1}
    digest = hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"format": "secure-fu/main-line/2", "sha256": digest, "line": line}))
    Federation.open(former, mlp(5, (), 3, 0), silos()).close()
    assert {0, 1, 2} <= remembered(former)


@pytest.mark.parametrize("damage", ["sha256", "state", "branch"])
def test_a_damaged_former_file_is_refused_and_left_as_it_is(former, damage):
    path = former / "main_line.json"
    values = json.loads(path.read_bytes())
    if damage == "sha256":
        values["line"]["kept"] = 2
    elif damage == "state":
        (former / values["line"]["state"]).unlink()
    else:
        (former / "ledger.sqlite").unlink()
    path.write_text(json.dumps(values))
    content = path.read_bytes()
    with pytest.raises(RecordError):
        upgrade(former)
    assert path.read_bytes() == content


def test_nothing_is_changed_while_a_server_has_the_directory(former):
    content = (former / "main_line.json").read_bytes()
    with PrivacyLedger.open(former / "ledger.sqlite"), pytest.raises(LedgerError, match="open in another process"):
        upgrade(former)
    assert (former / "main_line.json").read_bytes() == content


def _newer_json(path: Path) -> None:
    values = json.loads(path.read_bytes())
    path.write_text(json.dumps({**values, "format": values["format"].rpartition("/")[0] + "/9"}))


def _newer_ledger(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 9")
    connection.close()


def _newer_safetensors(path: Path) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    path.write_bytes(
        content[:8] + content[8 : 8 + length].replace(b"checkpoint/1", b"checkpoint/9") + content[8 + length :]
    )


def _newer_wire(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:3] + b"\x09" + content[4:])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("federation.json", _newer_json),
        ("main_line.json", _newer_json),
        ("ledger.sqlite", _newer_ledger),
        ("checkpoints/rounds-00000001.safetensors", _newer_safetensors),
        ("roster.bin", _newer_wire),
    ],
)
def test_a_newer_version_is_refused_naming_both_and_nothing_is_changed(former, name, change):
    change(former / name)
    line = (former / "main_line.json").read_bytes()
    with pytest.raises(NewerFormat, match=r"of version 9 of the format .*knows it up to version \d"):
        upgrade(former)
    assert (former / "main_line.json").read_bytes() == line


def test_an_older_version_without_an_upgrade_is_refused_naming_what_can_be_read(former):
    path = former / "main_line.json"
    values = json.loads(path.read_bytes())
    path.write_text(json.dumps({**values, "format": "secure-fu/main-line/0"}))
    with pytest.raises(RecordError, match=r"of version 0 .* knows versions 1, 2"):
        upgrade(former)


def test_looking_at_formats_ends_no_lock(former):
    upgrade(former)
    with PrivacyLedger.open(former / "ledger.sqlite"):
        assert any(found.path.name == "ledger.sqlite" for found in stored(former))
        code = (
            "import sys; from pathlib import Path; from secure_fu.privacy import PrivacyLedger; "
            "PrivacyLedger.open(Path(sys.argv[1]))"
        )
        outcome = subprocess.run(
            [sys.executable, "-c", code, former / "ledger.sqlite"], capture_output=True, text=True, check=False
        )
    assert outcome.returncode == 1
    assert "LedgerError" in outcome.stderr
