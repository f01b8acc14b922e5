"""A configuration is checked when it is made, and every complaint names the dotted key."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_fu.config import SimulationConfig
from secure_fu.config_file import from_dict, load_config, load_preset, preset_names, to_toml, with_overrides
from secure_fu.crypto import CommitteeTerms
from secure_fu.errors import ArgumentError, ConfigError
from secure_fu.federation import DEFAULT_COMMITTEE

MINIMAL: dict[str, Any] = {"name": "small", "data": {"source": "digits"}}


def changed(key: str, value: object) -> dict[str, Any]:
    """The minimal configuration with one dotted key set."""
    values = copy.deepcopy(MINIMAL)
    place = values
    *tables, last = key.split(".")
    for table in tables:
        place = place.setdefault(table, {})
    place[last] = value
    return values


def test_the_presets_of_the_issue_are_there() -> None:
    assert {"digits-silos", "breast-cancer-silos", "mnist-silos", "mnist-devices"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_under_its_own_name_and_survives_toml(name: str, tmp_path: Path) -> None:
    preset = load_preset(name)
    assert preset.name == name
    assert preset.description
    file = tmp_path / "config.toml"
    file.write_text(to_toml(preset), encoding="utf-8")
    assert load_config(file) == preset
    assert from_dict(preset.to_dict()) == preset


def test_a_minimal_configuration_takes_the_defaults() -> None:
    config = from_dict(MINIMAL)
    assert config == SimulationConfig(name="small", data=config.data)
    assert (config.seed, config.protocol.scheme, config.privacy.epsilon) == (0, "kahe", 8.0)
    committee = config.protocol
    assert (committee.members, committee.corrupt, committee.threshold, committee.quorum) == (10, 3, 7, 7)
    assert (committee.member_dropout, committee.grid, committee.sum_bits) == (0.0, "fine", 16)


def test_the_default_committee_is_that_of_a_federation() -> None:
    committee = from_dict(MINIMAL).protocol
    assert (
        CommitteeTerms(
            members=committee.members,
            threshold=committee.threshold,
            quorum=committee.quorum,
            corrupt=committee.corrupt,
        )
        == DEFAULT_COMMITTEE
    )


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_opened_by_a_committee(name: str) -> None:
    assert load_preset(name).protocol.scheme == "kahe"


@given(
    epsilon=st.floats(min_value=1e-300, max_value=1e300),
    seed=st.integers(min_value=0, max_value=2**62),
    description=st.text(st.characters(codec="utf-8")),
    hidden=st.lists(st.integers(min_value=1, max_value=65_536), min_size=1, max_size=4),
    setting=st.one_of(st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.text("ab \"'\\=#\n")),
)
def test_toml_gives_back_what_it_was_given(
    epsilon: float, seed: int, description: str, hidden: list[int], setting: bool | int | float | str
) -> None:
    config = from_dict(
        {
            **MINIMAL,
            "seed": seed,
            "description": description,
            "privacy": {"epsilon": epsilon},
            "model": {"hidden": hidden},
            "unlearning": {"methods": ["scrub"], "settings": {"scrub": {"length": setting}}},
        }
    )
    again = from_dict(tomllib.loads(to_toml(config)))
    assert again == config
    assert type(again.unlearning.settings["scrub"]["length"]) is type(setting)


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("sed", "seed"),
        ("privcy", "privacy"),
        ("data.sorce", "data.source"),
        ("model.hiden", "model.hidden"),
        ("training.rouns", "training.rounds"),
        ("privacy.epsilonn", "privacy.epsilon"),
        ("protocol.schema", "protocol.scheme"),
        ("deletion.backdor", "deletion.backdoor"),
        ("unlearning.method", "unlearning.methods"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(key: str, suggestion: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(changed(key, 3))
    assert caught.value.argument == key
    assert f"did you mean {suggestion}?" in str(caught.value)


def test_an_unknown_key_like_no_other_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.zzz .*known here: .*delta, .*epsilon"):
        from_dict(changed("privacy.zzz", 1))


@pytest.mark.parametrize(("values", "key"), [({"data": {"source": "digits"}}, "name"), ({"name": "a"}, "data")])
def test_a_missing_key_is_named(values: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match="this key is required") as caught:
        from_dict(values)
    assert caught.value.argument == key


def test_a_missing_key_of_a_table_is_named_in_full() -> None:
    with pytest.raises(ConfigError, match=r"^data\.source is None; expected a value; this key is required$"):
        from_dict({"name": "a", "data": {}})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("training.rounds", True, "a whole number"),
        ("training.rounds", 3.0, "a whole number"),
        ("training.rounds", "3", "a whole number"),
        ("training.rounds", [3], "a whole number"),
        ("training.rounds", {}, "a whole number"),
        ("privacy.epsilon", True, "a number"),
        ("privacy.epsilon", "8", "a number"),
        ("deletion.backdoor", 1, "true or false"),
        ("deletion.backdoor", "true", "true or false"),
        ("name", 3, "a string"),
        ("data.source", ["digits"], "a string"),
        ("model.hidden", 32, "a list"),
        ("model.hidden", "32", "a list"),
        ("unlearning.methods", "scrub", "a list"),
        ("data", "digits", "a table"),
        ("unlearning.settings", [], "a table"),
        ("unlearning.settings.scrub", 3, "a table"),
        ("unlearning.settings.scrub.length", [3], "a string, a number or a boolean"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(key: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(changed(key, value))
    assert caught.value.argument == key
    assert caught.value.expected.startswith(expected)


@pytest.mark.parametrize(
    ("key", "value", "item"),
    [("model.hidden", [32, True], "model.hidden[1]"), ("unlearning.methods", [3], "unlearning.methods[0]")],
)
def test_a_list_item_of_the_wrong_type_is_named_by_its_place(key: str, value: object, item: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(changed(key, value))
    assert caught.value.argument == item


def test_a_whole_number_serves_where_a_number_is_expected() -> None:
    epsilon = from_dict(changed("privacy.epsilon", 4)).privacy.epsilon
    assert (epsilon, type(epsilon)) == (4.0, float)


NAN, INF = float("nan"), float("inf")
OUT_OF_DOMAIN = [
    ("name", ["", "../up", "a/b", "a b", "-a", "x" * 49]),
    ("seed", [-1]),
    ("data.source", ["digit", ""]),
    ("data.partition", ["by-label"]),
    ("data.test_fraction", [0.0, 1.0, -0.1, NAN]),
    ("data.clients", [1, -1]),
    ("data.client_prefix", ["", "a b", "é"]),
    ("data.alpha", [0.0, -1.0, INF, NAN]),
    ("data.records", [-1]),
    ("model.kind", ["resnet", ""]),
    ("model.hidden", [[], [0], [32, -1]]),
    ("model.channels", [[], [0], [8, -1], [5000]]),
    ("training.unit", ["person"]),
    ("training.rounds", [0, -5]),
    ("training.learning_rate", [0.0, -0.1, INF, NAN]),
    ("training.momentum", [-0.1, 1.0, NAN]),
    ("training.clip_norm", [0.0, -1.0, INF, NAN]),
    ("training.sampling_rate", [0.0, 1.1, NAN]),
    ("training.nominal_units", [-1]),
    ("training.local_epochs", [0]),
    ("training.local_batch_size", [0]),
    ("training.local_learning_rate", [0.0, NAN]),
    ("privacy.epsilon", [0.0, -1.0, INF, NAN]),
    ("privacy.delta", [0.0, 1.0, NAN]),
    ("privacy.noise_multiplier", [-1.0, INF, NAN]),
    ("privacy.deletion_reserve", [-0.1, 1.0, NAN]),
    ("protocol.scheme", ["ckks", "BFV", "KAHE"]),
    ("protocol.members", [0, -1, 1025]),
    ("protocol.corrupt", [-1]),
    ("protocol.threshold", [0, 3, 11]),
    ("protocol.quorum", [0, 6, 11]),
    ("protocol.member_dropout", [-0.1, 1.0, NAN]),
    ("protocol.grid", ["coarse", ""]),
    ("protocol.sum_bits", [0, 7, 33]),
    ("protocol.colluders", [-1]),
    ("protocol.minimum_cohort", [2, 0, 11]),
    ("protocol.dropout", [-0.1, 1.0, NAN]),
    ("deletion.scope", ["person"]),
    ("deletion.joined_at", [-1, 100]),
    ("deletion.backdoor_label", [-1]),
    ("unlearning.methods", [["retrain"], ["scrub", "scrub"]]),
]


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in OUT_OF_DOMAIN for value in values])
def test_a_value_out_of_its_domain_is_refused_by_its_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(changed(key, value))
    assert caught.value.argument == key
    assert isinstance(caught.value, ArgumentError)
    assert repr(caught.value.value) == repr(value)
    assert caught.value.expected


CLIENT_UNIT = ("training.unit=client", "training.sampling_rate=1.0")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (["training.unit=client"], "training.sampling_rate"),
        (["deletion.joined_at=3", "training.rounds=3"], "deletion.joined_at"),
        (["protocol.minimum_cohort=10", "deletion.joined_at=1"], "protocol.minimum_cohort"),
        (["deletion.scope=group"], "deletion.groups"),
        (["deletion.scope=records"], "deletion.count"),
        (["protocol.members=6"], "protocol.threshold"),
        (["protocol.members=20"], "protocol.quorum"),
        (["protocol.corrupt=7"], "protocol.threshold"),
        (["protocol.corrupt=4"], "protocol.quorum"),
        (["protocol.grid=rotated"], "protocol.grid"),
        (["protocol.grid=rotated", *CLIENT_UNIT, "protocol.scheme=bfv"], "protocol.grid"),
        (["protocol.grid=rotated", *CLIENT_UNIT, "protocol.scheme=plain"], "protocol.grid"),
    ],
)
def test_keys_that_do_not_fit_each_other_are_refused(settings: list[str], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_overrides(from_dict(MINIMAL), settings)
    assert caught.value.argument == key


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["protocol.threshold=3"],
            "protocol.threshold is 3; expected a whole number above protocol.corrupt, 3, "
            "and at most protocol.members, 10",
        ),
        (
            ["protocol.quorum=6"],
            "protocol.quorum is 6; expected a whole number from 7, so that 2 * quorum > members + corrupt, to 10",
        ),
        (
            ["protocol.grid=rotated", "protocol.scheme=bfv"],
            "protocol.grid is 'rotated'; expected fine, with scheme bfv",
        ),
        (["protocol.grid=rotated"], "protocol.grid is 'rotated'; expected fine, with training.unit record"),
    ],
)
def test_a_committee_or_grid_that_cannot_be_says_what_would_do(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_overrides(from_dict(MINIMAL), settings)
    assert str(caught.value) == message


@pytest.mark.parametrize("corrupt", range(4))
@pytest.mark.parametrize("members", range(1, 8))
def test_committees_are_refused_exactly_where_the_terms_are(members: int, corrupt: int) -> None:
    for threshold in range(members + 2):
        for quorum in range(members + 2):
            numbers = {"members": members, "corrupt": corrupt, "threshold": threshold, "quorum": quorum}
            try:
                CommitteeTerms(**numbers)
            except ArgumentError:
                with pytest.raises(ConfigError):
                    from_dict({**MINIMAL, "protocol": numbers})
            else:
                assert from_dict({**MINIMAL, "protocol": numbers}).protocol.quorum == quorum


def test_the_rotated_grid_goes_with_committee_and_client_unit() -> None:
    config = with_overrides(from_dict(MINIMAL), [*CLIENT_UNIT, "protocol.grid=rotated", "protocol.sum_bits=20"])
    assert (config.protocol.grid, config.protocol.sum_bits) == ("rotated", 20)


def test_everybody_may_be_needed_when_nobody_joins_late() -> None:
    assert from_dict(changed("protocol.minimum_cohort", 10)).protocol.minimum_cohort == 10


# --set


@pytest.mark.parametrize(
    ("setting", "table", "key", "value"),
    [
        ("training.rounds=20", "training", "rounds", 20),
        ("training.learning_rate=1", "training", "learning_rate", 1.0),
        ("privacy.delta=1e-6", "privacy", "delta", 1e-6),
        ("protocol.scheme=plain", "protocol", "scheme", "plain"),
        ('protocol.scheme="plain"', "protocol", "scheme", "plain"),
        ("deletion.backdoor=true", "deletion", "backdoor", True),
        ("model.hidden=[64, 32]", "model", "hidden", (64, 32)),
        ('unlearning.methods=["scrub"]', "unlearning", "methods", ("scrub",)),
        ("unlearning.methods=[]", "unlearning", "methods", ()),
        ("data.path=/data/a=b.csv", "data", "path", "/data/a=b.csv"),
        ("data.path=two words", "data", "path", "two words"),
        ("data.path=", "data", "path", ""),
        (" data.path =x", "data", "path", "x"),
    ],
)
def test_a_setting_changes_one_key(setting: str, table: str, key: str, value: object) -> None:
    before = from_dict(MINIMAL)
    after = with_overrides(before, [setting])
    assert getattr(getattr(after, table), key) == value
    restored = after.to_dict()
    restored[table][key] = before.to_dict()[table][key]
    assert from_dict(restored) == before


def test_settings_reach_the_methods_own_and_the_last_one_wins() -> None:
    config = with_overrides(
        from_dict(MINIMAL),
        ["unlearning.settings.scrub.length=5", "unlearning.settings.scrub.normalise=true", "seed=1", "seed=2"],
    )
    assert config.unlearning.settings == {"scrub": {"length": 5, "normalise": True}}
    assert config.seed == 2


def test_a_setting_cannot_smuggle_in_another() -> None:
    config = with_overrides(from_dict(MINIMAL), ['description="one"\nseed=9'])
    assert config.seed == 0
    assert config.description == '"one"\nseed=9'


@pytest.mark.parametrize("setting", ["training.rounds", "=3", ""])
def test_a_setting_needs_a_key_and_a_sign(setting: str) -> None:
    with pytest.raises(ConfigError, match="expected key=value") as caught:
        with_overrides(from_dict(MINIMAL), [setting])
    assert caught.value.argument == "--set"


@pytest.mark.parametrize("setting", ["name.first=x", "training.rounds.more=3"])
def test_a_key_below_a_scalar_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="is not one") as caught:
        with_overrides(from_dict(MINIMAL), [setting])
    assert caught.value.argument == "--set"


@pytest.mark.parametrize("setting", [".seed=3", "training.=3", "training..rounds=3", "trainng.rounds=3"])
def test_a_setting_of_a_key_that_is_not_there_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="expected a known key"):
        with_overrides(from_dict(MINIMAL), [setting])


# Files


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml.*expected a readable TOML file"):
        load_config(tmp_path / "nothing.toml")


def test_a_presets_name_in_place_of_a_file_is_recognised() -> None:
    with pytest.raises(ConfigError, match="write --preset digits-silos"):
        load_config(Path("digits-silos"))


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe\x00", b"name = 'a'\nname = 'b'\n", b"\x00" * 40])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert caught.value.argument == "config"
    assert str(file) in str(caught.value)


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a readable TOML file"):
        load_config(tmp_path)


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"digits-silos.*did you mean 'digits-silos'") as caught:
        load_preset("digit-silos")
    assert caught.value.argument == "preset"
