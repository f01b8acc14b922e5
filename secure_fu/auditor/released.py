"""The models that a run has released, read from its directory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from secure_fu.errors import RunDirectoryError
from secure_fu.learning import FlatModel

__all__ = ["released_vector"]


def released_vector(run: Path, row: str, model: FlatModel) -> NDArray[np.float64]:
    """The parameters in `models/<row>.safetensors` of a run directory, shape (d,).

    Args:
        model: the architecture that the run's configuration describes.

    Raises:
        RunDirectoryError: the file is missing or damaged, or does not fit the architecture.
    """
    path = run / "models" / f"{row}.safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunDirectoryError(f"{path} cannot be read ({error}); expected a model that the run released") from None
    expected = {layer.name: layer.shape for layer in model.layers}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        raise RunDirectoryError(
            f"{path} has tensors {found}, which do not fit the run's config.toml; expected {expected}"
        )
    vector = model.flatten(tensors)
    if not np.isfinite(vector).all():
        raise RunDirectoryError(f"{path} has parameters that are NaN or infinite; expected finite ones")
    return vector
