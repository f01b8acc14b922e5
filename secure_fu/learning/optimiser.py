"""The server's optimiser: post-processing of released sums, nothing else.

A pure function on immutable states, so that a checkpoint is a value and rolling back restores the velocity with the
model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError

__all__ = ["OptimiserState", "ServerMomentum"]


@dataclass(frozen=True, kw_only=True, eq=False)
class OptimiserState:
    """Model and velocity after some number of steps, float64 arrays of shape (d,) that nobody can write to.

    Raises:
        ArgumentError: the two differ in shape, are not float64, or hold NaN or infinity.
    """

    vector: NDArray[np.float64]
    velocity: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("vector", "velocity"):
            object.__setattr__(self, name, _frozen(name, getattr(self, name)))
        if self.vector.shape != self.velocity.shape:
            raise ArgumentError("velocity", f"of shape {self.velocity.shape}", f"shape {self.vector.shape}")


@dataclass(frozen=True, kw_only=True)
class ServerMomentum:
    """Gradient descent with heavy-ball momentum (FedAvgM, Hsu, Qi, Brown 2019).

    velocity' = momentum * velocity + gradient;  vector' = vector - learning_rate * velocity'.

    Attributes:
        learning_rate: > 0.
        momentum: in [0, 1).

    Raises:
        ArgumentError: an attribute is out of range.
    """

    learning_rate: float
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0.0):
            raise ArgumentError("learning_rate", self.learning_rate, "a positive finite number")
        if not 0.0 <= self.momentum < 1.0:
            raise ArgumentError("momentum", self.momentum, "a number in [0, 1)")

    def start(self, vector: NDArray[np.float64]) -> OptimiserState:
        """The state before the first step: ``vector`` (d,) at velocity zero."""
        return OptimiserState(vector=vector, velocity=np.zeros_like(vector))

    def step(self, state: OptimiserState, gradient: NDArray[np.float64]) -> OptimiserState:
        """One step against ``gradient``.

        Args:
            gradient: float64, shape (d,): a released sum over a declared public constant, never over a private count.
                For client updates pass minus their scaled sum, the pseudo-gradient of Reddi et al. 2021.

        Raises:
            ArgumentError: the gradient has another shape or dtype, or the step leaves the finite numbers.
        """
        gradient = _frozen("gradient", gradient)
        if gradient.shape != state.vector.shape:
            raise ArgumentError("gradient", f"of shape {gradient.shape}", f"shape {state.vector.shape}")
        velocity = self.momentum * state.velocity + gradient
        return OptimiserState(vector=state.vector - self.learning_rate * velocity, velocity=velocity)


def _frozen(name: str, value: NDArray[np.float64]) -> NDArray[np.float64]:
    if value.dtype != np.float64 or value.ndim != 1:
        raise ArgumentError(name, f"{value.dtype} of shape {value.shape}", "a float64 array of shape (d,)")
    if not np.isfinite(value).all():
        raise ArgumentError(name, "not finite", "an array without NaN or infinity")
    frozen = value.copy()
    frozen.flags.writeable = False
    return frozen
