"""Configurations as TOML: files, presets, single settings of the command line."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w

from secure_fu.config import SimulationConfig, one_of
from secure_fu.errors import ConfigError

__all__ = [
    "from_dict",
    "load_config",
    "load_preset",
    "preset_names",
    "to_toml",
    "with_overrides",
]


def from_dict(values: Mapping[str, Any]) -> SimulationConfig:
    """Build a configuration from what a TOML file holds.

    Raises:
        ConfigError: an unknown key, a value of the wrong type, or one out of its domain; names the dotted key.
    """
    return typing.cast(SimulationConfig, _build(SimulationConfig, values, ""))


def _build(kind: type, values: Mapping[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(sorted(hints))}"
            raise ConfigError(f"{prefix}{key}", values[key], f"a known key; {hint}")
    for item in dataclasses.fields(kind):
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and item.name not in values:
            raise ConfigError(f"{prefix}{item.name}", None, "a value; this key is required")
    return kind(**{key: _convert(hints[key], value, f"{prefix}{key}") for key, value in values.items()})


def _convert(hint: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(key, value, "a table")
        return _build(hint, value, f"{key}.")
    origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(key, value, 'a list, as ["one", "two"] or [32, 16]')
        return tuple(_convert(typing.get_args(hint)[0], item, f"{key}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(key, value, "a table")
        return {name: _convert(typing.get_args(hint)[1], item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(hint, types.UnionType):
        if not isinstance(value, typing.get_args(hint)):
            raise ConfigError(key, value, "a string, a number or a boolean")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(
            key, value, {int: "a whole number", float: "a number", bool: "true or false"}.get(hint, "a string")
        )
    return value


def load_config(path: Path) -> SimulationConfig:
    """Read a configuration file.

    Raises:
        ConfigError: the file is missing or not TOML, or as :func:`from_dict`.
    """
    if not path.exists() and str(path) in preset_names():
        raise ConfigError("config", str(path), f"a TOML file; for the preset of that name write --preset {path}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("config", str(path), f"a readable TOML file ({type(error).__name__})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("config", str(path), f"valid TOML ({error})") from error
    except RecursionError:
        raise ConfigError("config", str(path), "TOML that is not nested so deep") from None
    return from_dict(values)


def preset_names() -> tuple[str, ...]:
    """Names of the presets that ship with the package."""
    folder = resources.files("secure_fu") / "presets"
    return tuple(sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")))


def load_preset(name: str) -> SimulationConfig:
    """Read a preset.

    Raises:
        ConfigError: there is none of this name.
    """
    one_of("preset", name, preset_names())
    return from_dict(tomllib.loads((resources.files("secure_fu") / "presets" / f"{name}.toml").read_text("utf-8")))


def with_overrides(config: SimulationConfig, overrides: Sequence[str]) -> SimulationConfig:
    """Apply `key=value` settings, keys dotted as in `training.rounds=20`, values in TOML syntax or bare strings.

    Raises:
        ConfigError: as :func:`from_dict`, or a setting without `=`.
    """
    values = config.to_dict()
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign or not key:
            raise ConfigError("--set", override, "key=value")
        value = _toml_value(text)
        place = values
        *tables, last = key.strip().split(".")
        for table in tables:
            child = place.setdefault(table, {})
            if not isinstance(child, dict):
                raise ConfigError("--set", override, f"a key of a table; {table} is not one")
            place = child
        place[last] = value
    return from_dict(values)


def _toml_value(text: str) -> Any:
    """What a TOML value says; the text itself where it is none."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def to_toml(config: SimulationConfig) -> str:
    """The configuration as TOML; reading it back gives an equal one."""
    return tomli_w.dumps(config.to_dict())
