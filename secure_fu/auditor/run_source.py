"""Reading the run that is to be audited, with an error for everything that is no such thing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from secure_fu.config import SimulationConfig
from secure_fu.config_file import load_config
from secure_fu.errors import ArgumentError, RunDirectoryError
from secure_fu.report import validate_result

__all__ = ["RunSource", "read_run"]


@dataclass(frozen=True, kw_only=True, eq=False)
class RunSource:
    """A finished run: its folder, its ``result.json`` and its configuration."""

    path: Path
    result: dict[str, object]
    config: SimulationConfig


def read_run(path: Path) -> RunSource:
    """Read and check what an audit needs of a run directory.

    Raises:
        ArgumentError: there is no such folder.
        RunDirectoryError: it is not the folder of a run, or of one that did not finish, or of another version's.
        ConfigError: its config.toml cannot be read.
    """
    named = f"RUN_DIR is {str(path)!r}"
    try:
        if not path.is_dir():
            raise ArgumentError("RUN_DIR", str(path), "the folder of a run")
        missing = [name for name in ("result.json", "config.toml") if not (path / name).is_file()]
        if missing:
            raise RunDirectoryError(f"{named}, which holds no {' and no '.join(missing)}; expected the folder of a run")
        result = json.loads((path / "result.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise RunDirectoryError(f"{named}, which cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):  # not JSON, or not UTF-8
        raise RunDirectoryError(f"{named}, whose result.json is no JSON; expected the folder of a run") from None
    if not isinstance(result, dict):
        raise RunDirectoryError(f"{named}, whose result.json is no object; expected the folder of a run")
    validate_result(result)
    if result["complete"] is not True:
        raise RunDirectoryError(f"{named}, a run that did not finish; expected one that did")
    return RunSource(path=path, result=result, config=load_config(path / "config.toml"))
