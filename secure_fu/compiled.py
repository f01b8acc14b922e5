"""How kernels are compiled: once for each function, on the first call, cached on disk where there is a place for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["kernel", "read_only"]

P = ParamSpec("P")
R = TypeVar("R")
Scalar = TypeVar("Scalar", bound=np.generic)


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function of arrays and integers without Python objects; it runs without the interpreter lock.

    Kernels call each other only within one file: numba's cache looks at the file of the outermost function, and would
    keep machine code with an older version of what it inlined from elsewhere. Callers always pass C-contiguous
    arrays, and one argument is always or never read-only (:func:`read_only`), so that a kernel is compiled once. There
    are no bounds checks: callers check.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache folder can be written
        compiled = numba.njit(**options)(function)
    return cast("Callable[P, R]", compiled)


def read_only(values: NDArray[Scalar]) -> NDArray[Scalar]:
    """What a kernel only reads, C-contiguous and aligned, as one type: read-only whether or not the caller's is."""
    view = np.require(values, requirements=["C", "A"]).view()
    view.flags.writeable = False
    return view
