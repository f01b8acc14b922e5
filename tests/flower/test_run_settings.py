"""What the configuration of a run may say."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("flwr")

from secure_fu.errors import ConfigError
from secure_fu.flower.server_app import RunSettings

CONFIG = {"server-directory": "/srv/fed", "job": "train", "rounds": 3, "report": "", "poll-seconds": 1}


def test_a_run_is_configured_by_what_flower_has(tmp_path):
    settings = RunSettings.of({**CONFIG, "nodes-directory": "/for/the/relay", "capture-directory": str(tmp_path)})
    assert settings == RunSettings(
        server_directory=Path("/srv/fed"), job="train", rounds=3, poll_seconds=1.0, capture_directory=tmp_path
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("server-directory", None),
        ("server-directory", ""),
        ("server-directory", 3),
        ("server-directory", "relative/path"),
        ("report", "relative.json"),
        ("job", "forget"),
        ("job", 3),
        ("rounds", -1),
        ("rounds", 1.5),
        ("rounds", True),
        ("now", 1),
        ("wait-for-nodes", -1),
        ("exchange-timeout", 0),
        ("round-timeout", "long"),
        ("poll-seconds", -0.5),
    ],
)
def test_a_bad_value_is_named(key, value):
    config = {name: item for name, item in (CONFIG | {key: value}).items() if item is not None}
    with pytest.raises(ConfigError) as caught:
        RunSettings.of(config)
    assert caught.value.argument == key
