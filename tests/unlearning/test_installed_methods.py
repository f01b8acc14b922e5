"""Methods that other distributions bring: found by name alone, checked when loaded, written with all settings."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import pytest
from third_party import DECAY, DECAY_SETTINGS, install

from secure_fu.errors import ArgumentError, ConfigError
from secure_fu.unlearning import (
    METHODS,
    FineTune,
    Newton,
    Scrub,
    installed,
    known_methods,
    method_from_settings,
    methods_from,
    methods_text,
    settings_of,
)

MODULE = "methods_of_others"


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop(MODULE, None)


def test_a_method_is_found_by_the_name_of_its_entry_point(site):
    with pytest.raises(ConfigError, match=r"'decay'.*installed on this machine"):
        installed("decay")
    install(site)
    kind = installed("decay")
    assert (kind.__module__, kind.__name__) == (MODULE, "Decay")
    assert known_methods() == (*METHODS, "decay")
    assert method_from_settings("decay", {"length": 3, "towards": "zero"}) == kind(length=3, towards="zero")
    assert settings_of(kind()) == DECAY_SETTINGS
    assert all(installed(name) is own for name, own in METHODS.items())


@pytest.mark.parametrize("name", [MODULE, f"{MODULE}:Decay", "os:system", "../decay", "Decay", "", "unlearn/decay"])
def test_what_is_no_name_of_a_method_is_never_imported(site, name):
    install(site)
    with pytest.raises(ConfigError):
        installed(name)
    assert MODULE not in sys.modules


def test_only_the_method_asked_for_is_loaded(site):
    install(site)
    install(site, name="bomb", module="bomb", source="raise SystemExit('loaded')", distribution="bombs")
    known_methods()
    assert MODULE not in sys.modules
    assert installed("decay").name == "decay"
    with pytest.raises(ConfigError, match="did you mean 'decay'"):
        installed("decai")
    assert installed("scrub") is Scrub
    assert "bomb" not in sys.modules


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"source": "Decay = 3"}, "a class derived from UnlearningMethod"),
        ({"source": "class Decay: name = 'decay'"}, "a class derived from UnlearningMethod"),
        ({"source": DECAY.replace("def guarantee", "def promise")}, "with all of its members"),
        ({"source": DECAY.replace("@dataclass(frozen=True, kw_only=True)\n", "")}, "a frozen dataclass"),
        ({"source": DECAY.replace("frozen=True, kw_only=True", "frozen=False, unsafe_hash=True")}, "frozen"),
        ({"source": DECAY.replace('= "decay"', '= "decoy"')}, "name is 'decoy'; expected 'decay'"),
        ({"source": DECAY.replace('= "decay"', '= "Decay"'), "name": "Decay"}, "a letter first, then a-z"),
        ({"source": DECAY.replace("float = 0.5", "list = ()")}, "decay is .*bool, int, float or StrEnum"),
        ({"source": DECAY.replace("float = 0.5", "float | None = None")}, "bool, int, float or StrEnum"),
        ({"source": DECAY.replace("float = 0.5", "str = 'x'")}, "bool, int, float or StrEnum"),
        ({"source": DECAY.replace("float = 0.5", "'Unknown' = 1")}, "types that its module has"),
        ({"source": DECAY.replace("float = 0.5", "'np.unknown' = 1")}, "types that its module has"),
        ({"source": DECAY.replace("float = 0.5", "'int |' = 1")}, "types that its module has"),
        ({"source": DECAY.replace("float = 0.5", "float")}, "a default for every setting"),
        ({"source": DECAY.replace('= "Weight decay"', '= ""')}, "title is ''"),
        ({"source": "import no_such_module"}, "ModuleNotFoundError"),
        ({"value": "Missing"}, "AttributeError"),
    ],
)
def test_what_is_no_method_is_refused_and_named(site, changes, says):
    name = install_and_name(site, **changes)
    with pytest.raises(ConfigError, match=says) as caught:
        installed(name)
    assert (caught.value.argument, caught.value.value) == ("unlearning.methods", name)
    assert "decay-methods" in str(caught.value)


def install_and_name(site, **changes):
    install(site, **changes)
    return changes.get("name", "decay")


def test_no_other_package_takes_the_place_of_a_method_or_shares_a_name(site):
    install(site, name="scrub", source=DECAY.replace('= "decay"', '= "scrub"'))
    with pytest.raises(ConfigError, match=r"no other package that calls a method so, as .*decay-methods"):
        installed("scrub")
    assert MODULE not in sys.modules
    install(site, module="again", distribution="one")
    install(site, module="once_more", distribution="two")
    with pytest.raises(ConfigError, match=r"not several: .*one.*two|not several: .*two.*one"):
        installed("decay")


# As text


def test_methods_with_all_their_settings_are_one_text_and_come_back(site):
    install(site)
    decay = method_from_settings("decay", {"decay": 2})
    declared = {Scrub(length=2, sharpness=math.inf), Scrub(), decay, Newton(), FineTune()}
    text = methods_text(declared)
    assert methods_text(sorted(declared, key=repr, reverse=True)) == text
    read = json.loads(text)
    assert read == sorted(read, key=lambda one: json.dumps(one, sort_keys=True, separators=(",", ":")))
    assert ["decay", {**DECAY_SETTINGS, "decay": 2.0}] in read
    assert ["finetune", {"length": 10}] in read
    assert {one["sharpness"] for name, one in read if name == "scrub"} == {"inf", 10.0}
    assert methods_from(text) == declared
    assert methods_text(methods_from(text)) == text


def test_equal_methods_have_equal_texts():
    assert methods_text([Scrub(rate_factor=2)]) == methods_text([Scrub(rate_factor=2.0)])
    assert methods_text([Scrub(), Scrub()]) == methods_text([Scrub()])
    assert methods_text([Scrub(rate_factor=2.0)]) != methods_text([Scrub(rate_factor=2.5)])


@pytest.mark.parametrize(
    "value", [math.nan, -math.inf, "fast", None, True, [1.0]], ids=["nan", "-inf", "text", "none", "bool", "list"]
)
def test_what_no_text_can_say_is_refused(value):
    made = Scrub()
    object.__setattr__(made, "rate_factor", value)
    with pytest.raises(ArgumentError, match="rate_factor is"):
        settings_of(made)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Scrub(length=2)", "a list as"),
        ('{"scrub": {}}', "a list as"),
        ('[["scrub"]]', "a list as"),
        ('[["scrub",[]]]', "a list as"),
        ('[["gone",{}]]', "'gone'.*install the package and version of then"),
        ('[["finetune",{}]]', "settings is .*install the package and version of then"),
        ('[["finetune",{"length":1,"rate":2.0}]]', "settings is .*'rate'"),
        ('[["finetune",{"length":"inf"}]]', "a whole number"),
        ('[["finetune",{"length":0}]]', "at least 1"),
    ],
)
def test_a_text_that_this_machine_cannot_follow_is_refused(text, says):
    with pytest.raises(ArgumentError, match=says):
        methods_from(text)


def test_a_class_that_the_caller_has_need_not_be_installed(site, monkeypatch):
    install(site)
    decay = method_from_settings("decay", {"length": 4})
    text = methods_text([decay, replace(decay, length=5), Scrub()])
    monkeypatch.undo()
    with pytest.raises(ArgumentError, match="methods is 'decay'"):
        methods_from(text)
    assert methods_from(text, [decay]) == {decay, replace(decay, length=5), Scrub()}


def test_inf_is_a_word_for_numbers_alone():
    assert method_from_settings("scrub", {"sharpness": "inf"}) == Scrub(sharpness=math.inf)
    with pytest.raises(ConfigError, match="a whole number"):
        method_from_settings("scrub", {"length": "inf"})
    with pytest.raises(ConfigError, match="finite"):
        method_from_settings("rollback", {"forget_epsilon": "inf"})
