"""The file that says when deletions run and who may ask."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from queue_cast import NOW, policy, roster

from secure_fu.deletion import DeletionPolicy, read_deletion_policy, write_deletion_policy
from secure_fu.errors import ArgumentError, RecordError

FULL = policy(hidden_units=2, cover=True, settings={"rounds": 3, "rate": 0.25, "fast": True, "kind": "x"})


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "deletion.toml"
    write_deletion_policy(FULL, path)
    assert read_deletion_policy(path) == FULL
    assert read_deletion_policy(path).digest == FULL.digest


def test_every_field_is_in_the_digest():
    changed = {
        "window_start": NOW,
        "window_seconds": 7200,
        "minimum_batch": 3,
        "maximum_batch": 6,
        "maximum_units": 10,
        "maximum_waiting": 20,
        "maximum_waiting_bytes": 4096,
        "hidden_units": 3,
        "cover": False,
        "method": "rollback",
        "settings": {},
        "largest_wait_seconds": 10**7,
        "execution_seconds": 5,
        "class_signers": (),
        "clock_tolerance_seconds": 1,
        "longest_pause_seconds": 100,
    }
    assert set(changed) == {item.name for item in fields(DeletionPolicy)}
    digests = {replace(FULL, **{name: value}).digest for name, value in changed.items()}
    assert len(digests | {FULL.digest}) == len(changed) + 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window_start", -1),
        ("window_seconds", 59),
        ("window_seconds", 60.5),
        ("minimum_batch", 0),
        ("minimum_batch", True),
        ("maximum_batch", 1),
        ("maximum_units", 0),
        ("maximum_units", 1 << 32),
        ("maximum_waiting", 0),
        ("maximum_waiting_bytes", 1023),
        ("hidden_units", 0),
        ("cover", 1),
        ("method", ""),
        ("settings", {"x": [1]}),
        ("largest_wait_seconds", 3600),
        ("class_signers", ("b", "a")),
        ("class_signers", "officer"),
        ("clock_tolerance_seconds", -1),
    ],
)
def test_what_makes_no_sense_is_named(name, value, tmp_path):
    with pytest.raises(ArgumentError, match=name):
        replace(FULL, **{name: value})


def test_the_server_is_no_class_signer():
    """It could have any class destroyed, at every client."""
    policy(class_signers=("alder", "officer")).check_roster(roster())
    with pytest.raises(ArgumentError, match="class_signers is 'hub'"):
        policy(class_signers=("hub", "officer")).check_roster(roster())


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("cover = true", "", "cover is None.*every key"),
        ("cover = true", "cover = true\ncovr = 1", "covr.*no such key"),
        ("cover = true", "cover = 'yes'", "cover is 'yes'"),
        ("minimum_batch = 2", "minimum_batch = ", "readable"),
        ('method = "retrain"', "method = 3", "method is 3"),
    ],
)
def test_a_bad_file_is_named(old, new, match, tmp_path):
    path = tmp_path / "deletion.toml"
    write_deletion_policy(FULL, path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(RecordError, match=match):
        read_deletion_policy(path)


def test_a_missing_and_a_huge_file(tmp_path):
    with pytest.raises(RecordError, match="none"):
        read_deletion_policy(tmp_path / "none")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(4 << 30)
    with pytest.raises(RecordError, match="more than"):
        read_deletion_policy(tmp_path / "huge")
