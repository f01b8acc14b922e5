"""Methods by name, with settings as in a configuration file."""

from __future__ import annotations

import pytest

from secure_fu.errors import ConfigError
from secure_fu.unlearning import METHODS, Correction, FineTune, Retrain, Rollback, Scratch, Scrub, method_from_settings


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("retrain", {}, Retrain()),
        ("rollback", {}, Rollback(forget_epsilon=0.0)),
        ("rollback", {"forget_epsilon": 2}, Rollback(forget_epsilon=2.0)),
        ("scrub", {}, Scrub(length=10, rate_factor=1.5, forgotten_factor=1.75, sharpness=10.0)),
        ("scrub", {"length": 3, "rate_factor": 1.5}, Scrub(length=3, rate_factor=1.5)),
        ("correction", {"rate_factor": 2}, Correction(length=10, rate_factor=2.0)),
        ("finetune", {"length": 4}, FineTune(length=4)),
        ("scratch", {}, Scratch(length=10)),
    ],
)
def test_methods_by_name(name, settings, expected):
    assert method_from_settings(name, settings) == expected


def test_names_are_the_methods_own():
    for name, method in METHODS.items():
        made = method_from_settings(name, {})
        assert type(made) is method
        assert made.name == name
        assert made.purpose == f"unlearn/{name}"
        assert made.title


@pytest.mark.parametrize(
    ("name", "hint"), [("scrb", "did you mean 'scrub'"), ("Retrain", "did you mean 'retrain'"), ("x", "rollback")]
)
def test_unknown_methods(name, hint):
    with pytest.raises(ConfigError, match=hint) as caught:
        method_from_settings(name, {})
    assert caught.value.argument == "unlearning.methods"
    assert caught.value.value == name
    assert all(known in str(caught.value) for known in METHODS)


@pytest.mark.parametrize(
    ("name", "settings", "key", "expected"),
    [
        ("scrub", {"lenght": 3}, "lenght", "did you mean 'length'"),
        ("scrub", {"normalise": True}, "normalise", "length, rate_factor"),
        ("rollback", {"length": 3}, "length", "forget_epsilon"),
        ("rollback", {"name": "x"}, "name", "a setting among"),
        ("retrain", {"length": 3}, "length", "no settings"),
        ("scrub", {"length": 2.5}, "length", "a whole number"),
        ("scrub", {"length": 2.0}, "length", "a whole number"),
        ("scrub", {"length": True}, "length", "a whole number"),
        ("scrub", {"length": "3"}, "length", "a whole number"),
        ("scrub", {"rate_factor": False}, "rate_factor", "a number"),
        ("scrub", {"rate_factor": "fast"}, "rate_factor", "a number"),
        ("rollback", {"forget_epsilon": None}, "forget_epsilon", "a number"),
        ("scrub", {"length": 0}, "length", "at least 1"),
        ("scrub", {"rate_factor": float("nan")}, "rate_factor", "positive"),
        ("correction", {"rate_factor": -2.0}, "rate_factor", "positive"),
        ("rollback", {"forget_epsilon": float("inf")}, "forget_epsilon", "finite"),
        ("finetune", {"length": -1}, "length", "at least 1"),
        ("scratch", {"length": 0}, "length", "at least 1"),
    ],
)
def test_settings_that_are_unknown_of_the_wrong_type_or_out_of_their_domain(name, settings, key, expected):
    with pytest.raises(ConfigError) as caught:
        method_from_settings(name, settings)
    assert caught.value.argument == f"unlearning.settings.{name}.{key}"
    assert caught.value.value is settings[key]
    assert expected in str(caught.value)


def test_a_whole_number_will_do_for_a_number():
    assert method_from_settings("scrub", {"rate_factor": 3}) == Scrub(rate_factor=3.0)
