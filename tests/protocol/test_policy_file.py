"""A policy file is read as it was written, or refused with the key that is wrong; never anything else."""

from __future__ import annotations

import contextlib
import datetime
import math
import tomllib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secure_fu.crypto import CommitteeTerms
from secure_fu.errors import RecordError
from secure_fu.privacy import Budget, Unit
from secure_fu.privacy.accounting import ORDERS
from secure_fu.protocol import GridKind, Policy, read_policy, write_policy

TERMS = CommitteeTerms(members=4, threshold=3, quorum=3, corrupt=1)
POLICY = Policy(
    server="server",
    committee=("m-0", "m-1", "m-2", "m-3"),
    terms=TERMS,
    roster_digest=bytes(range(32)),
    unit=Unit.RECORD,
    budget=Budget(epsilon=8.0, delta=1e-5, order=4.0, deletion_reserve=0.5, unit=Unit.RECORD),
    clip_norm=1.0,
    saturation=2.0,
    noise_multiplier=2.5,
    sampling_rate=0.25,
    minimum_cohort=5,
    colluders=1,
    purposes=frozenset({"train", "unlearn/retrain"}),
    parameter_sets=frozenset({"kahe-1024-25"}),
)
KEYS = [item.name for item in fields(Policy)]
TERM_KEYS = [f"terms.{item.name}" for item in fields(CommitteeTerms)]
BUDGET_KEYS = [f"budget.{item.name}" for item in fields(Budget)]


def table_of(policy: Policy, path: Path) -> dict[str, Any]:
    write_policy(policy, path)
    return tomllib.loads(path.read_text(encoding="utf-8"))


def place(table: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The table that a dotted key is in, and its name there."""
    *outer, name = key.split(".")
    return (table[outer[0]] if outer else table), name


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., None]:
    """Checks that a file with one change is refused, and that the error says which file and which key."""

    def check(change: Callable[[dict[str, Any]], object], *words: str) -> None:
        path = tmp_path / "policy.toml"
        table = table_of(POLICY, path)
        change(table)
        path.write_text(tomli_w.dumps(table), encoding="utf-8")
        with pytest.raises(RecordError) as caught:
            read_policy(path)
        message = str(caught.value)
        assert message.startswith(f"{path} is not a policy: "), message
        for word in words:
            assert word in message, message

    return check


# Round trips


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    members = draw(st.integers(1, 40))
    corrupt = draw(st.integers(0, (members - 1) // 2))
    terms = CommitteeTerms(
        members=members,
        corrupt=corrupt,
        threshold=draw(st.integers(corrupt + 1, members)),
        quorum=draw(st.integers((members + corrupt) // 2 + 1, members)),
    )
    unit = draw(st.sampled_from(Unit))
    positive = st.floats(1e-300, 1e300, allow_nan=False)
    budget = Budget(
        epsilon=draw(st.floats(6.0, 50.0)),
        delta=draw(st.floats(1e-7, 1e-3)),
        order=draw(st.sampled_from([order for order in ORDERS if 4.0 <= order <= 32.0])),
        deletion_reserve=draw(st.floats(0.0, 0.9)),
        unit=unit,
        group_size=draw(st.integers(1, 1000)),
    )
    texts = st.text(st.characters(codec="utf-8"), max_size=20)
    colluders = draw(st.integers(0, 10))
    return Policy(
        server=draw(texts),
        committee=tuple(sorted(draw(st.sets(texts, min_size=members, max_size=members)))),
        terms=terms,
        roster_digest=draw(st.binary(min_size=32, max_size=32)),
        unit=unit,
        budget=budget,
        clip_norm=draw(positive),
        saturation=draw(positive),
        noise_multiplier=draw(positive),
        sampling_rate=draw(st.floats(0.0, 1.0, exclude_min=True)),
        minimum_cohort=draw(st.integers(colluders + 2, 10**9)),
        colluders=colluders,
        purposes=frozenset(draw(st.sets(texts, max_size=4))),
        parameter_sets=frozenset(draw(st.sets(texts, max_size=4))),
        grids=frozenset(draw(st.sets(st.sampled_from([kind.value for kind in GridKind]), min_size=1))),
    )


@given(policy=policies())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_read_is_what_was_written(policy: Policy, tmp_path: Path) -> None:
    write_policy(policy, tmp_path / "policy.toml")
    assert read_policy(tmp_path / "policy.toml") == policy


def test_every_part_of_a_policy_is_in_its_file(tmp_path: Path) -> None:
    """Two policies that differ anywhere have different files."""
    path = tmp_path / "policy.toml"
    write_policy(POLICY, path)
    whole = path.read_bytes()
    others: dict[str, Any] = {
        "server": "other",
        "committee": ("m-0", "m-1", "m-2", "m-4"),
        "terms": replace(TERMS, quorum=4),
        "roster_digest": bytes(32),
        "budget": replace(POLICY.budget, group_size=2),
        "clip_norm": math.nextafter(1.0, 2.0),
        "saturation": 3.0,
        "noise_multiplier": 2.0,
        "sampling_rate": 0.5,
        "minimum_cohort": 6,
        "colluders": 2,
        "purposes": frozenset({"train"}),
        "parameter_sets": frozenset({"bfv-4096-54-36"}),
        "grids": frozenset({"rotated"}),
    }
    assert set(others) == set(KEYS) - {"unit"}  # which goes with the budget's
    for name, value in others.items():
        write_policy(replace(POLICY, **{name: value}), path)
        assert path.read_bytes() != whole, name


def test_whole_numbers_may_be_written_without_a_point(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    table = table_of(POLICY, path)
    path.write_text(tomli_w.dumps({**table, "clip_norm": 1, "saturation": 2}))
    assert read_policy(path) == POLICY
    assert type(read_policy(path).clip_norm) is float


# Keys


@pytest.mark.parametrize("key", [*KEYS, *TERM_KEYS, *BUDGET_KEYS])
def test_a_missing_key_is_named(refused: Callable[..., None], key: str) -> None:
    def remove(table: dict[str, Any]) -> None:
        inner, name = place(table, key)
        del inner[name]

    refused(remove, f"policy: {key} is None; expected a value: a policy has every key")


@pytest.mark.parametrize("key", ["Server", "noise_multipliers", "terms.t", "budget.Epsilon", "terms.quorum "])
def test_an_unknown_key_is_named(refused: Callable[..., None], key: str) -> None:
    def add(table: dict[str, Any]) -> None:
        inner, name = place(table, key)
        inner[name] = 1

    refused(add, f"policy: {key} is 1; expected no such key, but ")


def test_a_misspelt_key_does_not_pass_for_its_default(refused: Callable[..., None]) -> None:
    """`grids` and `group_size` have defaults in the code; a file has to say them."""
    refused(lambda table: table.update(grid=table.pop("grids")), "grids is None")
    refused(lambda table: table["budget"].update(group=table["budget"].pop("group_size")), "budget.group_size is None")


WRONG: list[Any] = [
    True,
    -1,
    0.5,
    10**400,
    math.nan,
    math.inf,
    "",
    "x",
    [],
    [1],
    ["a", 1],
    {},
    {"a": 1},
    datetime.datetime(2026, 1, 2, 3, 4, 5),
    datetime.date(2026, 1, 2),
    datetime.time(3, 4),
]


@pytest.mark.parametrize("key", [*KEYS, *TERM_KEYS, *BUDGET_KEYS])
@pytest.mark.parametrize("value", WRONG, ids=lambda value: f"{type(value).__name__} {str(value)[:8]}")
def test_a_value_of_another_type_is_refused_and_its_key_named(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "policy.toml"
    table = table_of(POLICY, path)
    inner, name = place(table, key)
    inner[name] = value
    path.write_text(tomli_w.dumps(table), encoding="utf-8")
    refusal = ""
    try:
        policy = read_policy(path)
    except RecordError as error:
        refusal = str(error)
    if refusal:
        small = (key, value) == ("budget.epsilon", 0.5)  # of the right type; the order admits nothing there
        assert f"{key} is " in refusal or f"{key}." in refusal or (small and "budget.order" in refusal)
        return
    # What is of the right type and in its domain: the policy then says just that.
    owner: Any = policy
    for part in key.split("."):
        owner = getattr(owner, part)
    assert owner == (frozenset(value) if isinstance(value, list) else value)
    assert type(owner) in (str, float, frozenset)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("terms.quorum", 2, "terms.quorum is 2; expected from 3 (more than half of members + corrupt"),
        ("terms.quorum", 5, "terms.quorum is 5"),
        ("terms.threshold", 1, "terms.threshold is 1; expected from 2 (corrupt + 1"),
        ("terms.threshold", 5, "terms.threshold is 5"),
        ("terms.corrupt", 2, "terms.quorum is 3; expected from 4"),
        ("terms.corrupt", 4, "terms.corrupt is 4"),
        ("terms.corrupt", -1, "terms.corrupt is -1"),
        ("terms.members", 5, "terms.quorum is 3"),
        ("terms.members", 0, "terms.members is 0"),
        ("terms.members", 10**9, "terms.members is 1000000000"),
        ("committee", ["m-0", "m-1", "m-2"], "committee is ['m-0', 'm-1', 'm-2']; expected 4 (terms.members) sorted"),
        ("committee", ["m-1", "m-0", "m-2", "m-3"], "committee is"),
        ("committee", ["m-0", "m-0", "m-2", "m-3"], "committee is"),
        ("roster_digest", "00" * 31, "roster_digest is"),
        ("roster_digest", "00" * 33, "roster_digest is"),
        ("roster_digest", "zz" * 32, "roster_digest is"),
        ("roster_digest", " " + "00" * 32, "roster_digest is"),
        ("unit", "person", "unit is 'person'; expected one of"),
        ("unit", "client", "budget.unit is 'record'; expected the policy's own unit, 'client'"),
        ("budget.unit", "group", "budget.unit is 'group'; expected the policy's own unit, 'record'"),
        ("budget.epsilon", 0.0, "budget.epsilon is 0.0"),
        ("budget.delta", 1.5, "budget.delta is 1.5"),
        ("budget.deletion_reserve", 1.0, "budget.deletion_reserve is 1.0"),
        ("budget.group_size", 0, "budget.group_size is 0"),
        ("budget.order", 1.0, "budget.order is 1.0"),
        ("budget.order", 4.0625, "budget.order is 4.0625"),
        ("clip_norm", 0.0, "clip_norm is 0.0"),
        ("noise_multiplier", -2.5, "noise_multiplier is -2.5"),
        ("saturation", math.inf, "saturation is inf"),
        ("sampling_rate", 1.25, "sampling_rate is 1.25"),
        ("minimum_cohort", 2, "minimum_cohort is 2; expected at least 3"),
        ("minimum_cohort", 5.0, "minimum_cohort is 5.0; expected an integer"),
        ("colluders", -1, "colluders is -1"),
        ("colluders", False, "colluders is False; expected an integer"),
        ("grids", ["coarse"], "grids is ['coarse']"),
        ("grids", [], "grids is []"),
        ("purposes", "train", "purposes is 'train'; expected a list of strings"),
    ],
)
def test_a_value_outside_its_domain_is_refused_with_what_would_be_right(
    refused: Callable[..., None], key: str, value: Any, words: str
) -> None:
    def change(table: dict[str, Any]) -> None:
        inner, name = place(table, key)
        inner[name] = value

    refused(change, words)


# Files


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"server",
        b"= 1",
        b"server = 'a'\nserver = 'b'\n",
        b"\xff\xfe",
        b"\xef\xbb\xbfserver = 'a'",
        b"\0" * 100,
        b"{}",
        b"a = " + b"[" * 50_000,
        b"a = " + b"{b = " * 50_000,
        b"a = " + b"9" * 10_000,
        b"minimum_cohort = 0x" + b"f" * 10_000,
        b"[terms]\n[budget]\n",
    ],
    ids=range(13),
)
def test_what_is_no_policy_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"policy\.toml is not a (readable )?policy: "):
        read_policy(path)


def test_a_number_too_long_to_print_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    write_policy(POLICY, path)
    text = path.read_text().replace("minimum_cohort = 5", "minimum_cohort = 5.5").replace("5.5", "-0x1")
    path.write_text(text)
    with pytest.raises(RecordError):
        read_policy(path)
    path.write_text(text.replace("-0x1", "0x" + "f" * 10_000).replace("colluders = 1", "colluders = 0x" + "f" * 10_001))
    with pytest.raises(RecordError):
        read_policy(path)


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(RecordError, match=f"{path.name} is not a readable policy"):
            read_policy(path)
    for path in (tmp_path / "no" / "folder.toml", tmp_path):
        with pytest.raises(RecordError, match=f"{path.name} cannot be written"):
            write_policy(POLICY, path)
    write_policy(POLICY, tmp_path / "policy.toml")

    def refuse(path: Path, *_: object, **__: object) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RecordError, match=r"not a readable policy: .*Permission denied"):
        read_policy(tmp_path / "policy.toml")


# Anything at all


def toml_values() -> st.SearchStrategy[Any]:
    plain = (
        st.booleans()
        | st.integers()
        | st.floats()
        | st.text(st.characters(codec="utf-8"), max_size=8)
        | st.datetimes()
        | st.dates()
        | st.times()
    )
    return st.recursive(
        plain,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=3)
        ),
        max_leaves=6,
    )


@given(
    changes=st.dictionaries(st.sampled_from([*KEYS, *TERM_KEYS, *BUDGET_KEYS]), toml_values(), min_size=1, max_size=3)
)
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_values_of_any_kind_give_a_policy_or_the_named_error(changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    table = table_of(POLICY, path)
    for key, value in changes.items():
        inner, name = place(table, key) if isinstance(table.get(key.split(".")[0]), dict) else (table, key)
        inner[name] = value
    path.write_text(tomli_w.dumps(table), encoding="utf-8")
    try:
        policy = read_policy(path)
    except RecordError:
        return
    assert isinstance(policy, Policy)
    policy.__post_init__()
    write_policy(policy, path)
    assert read_policy(path) == policy


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_of_any_kind_give_the_named_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(content)
    with pytest.raises(RecordError):
        read_policy(path)


@given(data=st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_policy_file_that_was_damaged_gives_a_policy_or_the_named_error(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    write_policy(POLICY, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(RecordError):
        assert isinstance(read_policy(path), Policy)
