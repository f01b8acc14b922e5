"""Where a main line stands after the last deletion that was executed on it, as files of the server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.deletion import DeletionBatch, DeletionRequest, SignedBatch
from secure_fu.errors import ArgumentError, RecordError
from secure_fu.federation.founding import from_plain, to_plain
from secure_fu.file_names import MAIN_LINE
from secure_fu.protocol.files import destroy_file, leftovers, write_whole
from secure_fu.training import Lineage, TrainingState
from secure_fu.training.checkpoints import pack_state, read_state
from secure_fu.unlearning import Baseline, Certified, CertifiedModel, Exact, Guarantee, Heuristic

__all__ = ["Executed", "Standing", "read_standing", "write_standing"]

_FORMAT: Final = "secure-fu/main-line/2"
_KINDS: Final[Mapping[str, type]] = {
    kind.__name__: kind
    for kind in (DeletionRequest, DeletionBatch, SignedBatch, Exact, Certified, CertifiedModel, Heuristic, Baseline)
}


@dataclass(frozen=True, kw_only=True)
class Executed:
    """A deletion that was executed on the main line.

    Attributes:
        request: what was forgotten.
        method: by its name.
        branch: of the ledger, that the deletion's rounds are in.
        forgotten_units: how many units, the size of the group that the guarantee is about.
        guarantee: as it stands. A later request or method that may have been chosen after seeing models weakens what
            was proved for those that were not.
        if_adaptive: what is left of it then.
        chosen_late: whether this request, or the method's settings, may have been.
    """

    request: DeletionRequest | DeletionBatch | SignedBatch
    method: str
    branch: str
    forgotten_units: int
    guarantee: Guarantee
    if_adaptive: Guarantee
    chosen_late: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Standing:
    """What the last executed deletion left.

    Attributes:
        executed: all deletions so far; the main line is on the branch of the last.
        gone: which records are forgotten, by client, as they were brought.
        state: that the last deletion ended in.
        lineage: of that state.
        kept: checkpoints of more rounds that are not of the present branch knew what was forgotten.
        remembered: last round of before that clients may still remember, and
        until: last round that knew what was forgotten; what they remember from in between has to go.
    """

    executed: tuple[Executed, ...]
    gone: Mapping[str, NDArray[np.bool_]]
    state: TrainingState
    lineage: Lineage
    kept: int
    remembered: int
    until: int


def write_standing(directory: Path, standing: Standing) -> None:
    """Write it down in one step, durable on return; the state before it is destroyed.

    Raises:
        RecordError: it cannot be written; what was there stands.
    """
    content = pack_state(standing.state, standing.lineage)
    name = f"main_line-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    values = {
        "state": name,
        "kept": standing.kept,
        "remembered": standing.remembered,
        "until": standing.until,
        "gone": {
            client: {"of": len(mask), "at": np.flatnonzero(mask).tolist()} for client, mask in standing.gone.items()
        },
        "executed": [
            {
                "request": _tagged(one.request),
                "method": one.method,
                "branch": one.branch,
                "forgotten_units": one.forgotten_units,
                "guarantee": _tagged(one.guarantee),
                "if_adaptive": _tagged(one.if_adaptive),
                "chosen_late": one.chosen_late,
            }
            for one in standing.executed
        ],
    }
    try:
        write_whole(directory / name, content)
        text = json.dumps({"format": _FORMAT, "sha256": _hash(values), "line": values}, indent=1)
        write_whole(directory / MAIN_LINE, text.encode())
        _destroy_others(directory, name)
    except OSError as error:
        raise RecordError(f"{directory / MAIN_LINE} cannot be written: {error}") from error


def read_standing(directory: Path) -> Standing | None:
    """What was written last; None if no deletion was executed yet.

    Raises:
        RecordError: the file is damaged.
        CheckpointError: the state's file is missing or damaged.
    """
    path = directory / MAIN_LINE
    if not path.exists():
        return None
    try:
        read = json.loads(path.read_bytes())
        values = read["line"]
        if read["format"] != _FORMAT or read["sha256"] != _hash(values):
            raise ValueError("it is not what was written, or of another version")
        executed = tuple(
            Executed(
                request=_untagged(one["request"]),
                method=one["method"],
                branch=one["branch"],
                forgotten_units=one["forgotten_units"],
                guarantee=_untagged(one["guarantee"]),
                if_adaptive=_untagged(one["if_adaptive"]),
                chosen_late=one["chosen_late"],
            )
            for one in values["executed"]
        )
        gone = {client: _mask(mark["of"], mark["at"]) for client, mark in values["gone"].items()}
        _destroy_others(directory, values["state"])
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError, ArgumentError) as error:
        raise RecordError(f"{path} is damaged: {error}; restore it from a copy made after the last deletion") from error
    state, lineage = read_state(directory / values["state"])
    return Standing(
        executed=executed,
        gone=gone,
        state=state,
        lineage=lineage,
        kept=values["kept"],
        remembered=values["remembered"],
        until=values["until"],
    )


def _destroy_others(directory: Path, name: str) -> None:
    """What a kill has left, and the state of the deletion before."""
    for path in (*directory.glob("main_line-*.safetensors"), *leftovers(directory, "main_line*")):
        if path.name != name:
            destroy_file(path)


def _hash(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _mask(length: int, positions: list[int]) -> NDArray[np.bool_]:
    mask = np.zeros(length, dtype=np.bool_)
    mask[positions] = True
    return mask


def _tagged(value: object) -> dict[str, Any]:
    return {"type": type(value).__name__, "value": to_plain(value)}


def _untagged(value: Mapping[str, Any]) -> Any:
    return from_plain(_KINDS[value["type"]], value["value"])
