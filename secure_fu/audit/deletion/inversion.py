"""Can a deleted record be rebuilt from the two models? Inversion of the difference of parameters.

Linear models, in closed form (Bertran et al. 2024, arXiv 2405.20272): the Hessian times the difference is the sum of
the deleted records' gradients, and a row of it over its entry for the bias is a weighted mean of their features: the
record itself where one was deleted. The Hessian is taken on public records. Other models: the features whose gradient
points most like the difference, found by descent from the best guess (Zhu et al. 2019, arXiv 1906.08935; for
unlearning Hu et al. 2024, arXiv 2404.03233).

The attack guesses the class as well. It is scored against the mean public record of that class, the best that can be
said of it without the models: what that scores no model has given away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secure_fu.audit.deletion.precise import fixed_tensors, trained_tensors
from secure_fu.audit.deletion.runs import DeletionRuns, Part
from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel, Records, cross_entropy
from secure_fu.privacy import Interval, mean_interval

__all__ = ["Inversion", "gradient_matching", "inversion", "is_linear", "linear_inversion"]

_STEP: Final = 0.05  # of Adam, in units of the features' public range
_LEAST: Final = 1e-12


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """How near the rebuilt records come to deleted ones. Of each run the nearest deleted record counts, for both.

    Attributes:
        exact: whether the closed form of linear models was used.
        cosine, guess_cosine: of the rebuilt record, and of the guess without the models.
        gain: mean difference of the two cosines; above 0, the models gave something away.
        psnr, guess_psnr: peak signal to noise ratio in decibels against the range of public features.
        psnr_gain: mean difference of the two.
        runs: how many runs.
    """

    exact: bool
    cosine: Interval
    guess_cosine: Interval
    gain: Interval
    psnr: Interval
    guess_psnr: Interval
    psnr_gain: Interval
    runs: int

    @property
    def found(self) -> bool:
        """Whether the rebuilt records are nearer than the guess, by both measures, at the level of the intervals."""
        return self.gain.low > 0.0 and self.psnr_gain.low > 0.0

    def to_json(self) -> dict[str, object]:
        """Every number of it."""
        names = ("cosine", "guess_cosine", "gain", "psnr", "guess_psnr", "psnr_gain")
        return {"exact": self.exact, **{name: getattr(self, name).to_json() for name in names}, "runs": self.runs}


def inversion(
    runs: DeletionRuns,
    after: NDArray[np.float32],
    *,
    attempts: int = 8,
    steps: int = 60,
    weight_decay: float = 0.0,
    level: float = 0.95,
) -> Inversion | None:
    """Rebuild one deleted record of each run from the models before and after.

    Args:
        after: one model a run, (R, d).
        attempts: how many runs are attacked where the closed form does not hold, >= 2.
        steps: of gradient matching, >= 1.
        weight_decay: lambda of the L2 term lambda / 2 |w|^2 beside the mean loss in training; it is public.
        level: of the intervals.

    Returns:
        None where some class has no public record, so that there is no guess to compare with.

    Raises:
        ArgumentError: an argument is out of its domain.
    """
    if attempts < 2:
        raise ArgumentError("attempts", attempts, "at least 2")
    if steps < 1:
        raise ArgumentError("steps", steps, "at least 1")
    public = runs.test.features.numpy().reshape(len(runs.test), -1).astype(np.float64)
    labels = runs.test.labels.numpy()
    classes = int(runs.target_logits(runs.before[:1]).shape[2])
    if len(np.unique(labels)) < classes:
        return None
    guesses = np.stack([public[labels == number].mean(axis=0) for number in range(classes)])
    low, high = float(public.min()), float(public.max())
    exact = is_linear(runs.model, runs.targets.width)
    scores = []
    truth = runs.targets.features.numpy().reshape(len(runs.targets), -1).astype(np.float64)
    for run in range(runs.runs if exact else min(attempts, runs.runs)):
        first, second = runs.before[run].astype(np.float64), after[run].astype(np.float64)
        if exact:
            rebuilt, label = linear_inversion(runs.model, first, second, runs.test, weight_decay=weight_decay)
        else:
            rebuilt, label = gradient_matching(runs.model, first, second, runs.test, guesses, steps=steps)
        gone = truth[runs.record_parts[run] == Part.FORGOTTEN]
        scores.append(
            [*_nearest(rebuilt.clip(low, high), gone, high - low), *_nearest(guesses[label], gone, high - low)]
        )
    cosine, psnr, guess_cosine, guess_psnr = np.array(scores).T
    return Inversion(
        exact=exact,
        cosine=mean_interval(cosine, level=level),
        guess_cosine=mean_interval(guess_cosine, level=level),
        gain=mean_interval(cosine - guess_cosine, level=level),
        psnr=mean_interval(psnr, level=level),
        guess_psnr=mean_interval(guess_psnr, level=level),
        psnr_gain=mean_interval(psnr - guess_psnr, level=level),
        runs=len(scores),
    )


def is_linear(model: FlatModel, width: int) -> bool:
    """Whether logits are W x + b with all of W and b trained: a weight for each class and feature, then a bias."""
    if len(model.layers) != 2:
        return False
    weights, bias = model.layers
    return len(weights.shape) == 2 and weights.shape[1] == width and bias.shape == weights.shape[:1]


def linear_inversion(
    model: FlatModel,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    public: Records,
    *,
    weight_decay: float = 0.0,
) -> tuple[NDArray[np.float64], int]:
    """The deleted record (width,) and its class from the models of a linear architecture, each float64 (d,)."""
    at = {name: tensor.requires_grad_() for name, tensor in trained_tensors(model, (before + after) / 2.0).items()}
    along = trained_tensors(model, after - before)
    mean_loss = cross_entropy(
        model.logits({**fixed_tensors(model), **at}, public.features.to(torch.float64)), public.labels
    ).mean()
    gradients = torch.autograd.grad(mean_loss, list(at.values()), create_graph=True)
    product = torch.stack([(gradient * along[name]).sum() for name, gradient in zip(at, gradients, strict=True)]).sum()
    sums = torch.autograd.grad(product, list(at.values()))
    weights, bias = ((part + weight_decay * along[name]).numpy() for name, part in zip(at, sums, strict=True))
    label = int(bias.argmin())
    scale = bias[label] if abs(bias[label]) > _LEAST else 1.0
    return weights[label] / scale, label


def gradient_matching(
    model: FlatModel,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    public: Records,
    guesses: NDArray[np.float64],
    *,
    steps: int,
) -> tuple[NDArray[np.float64], int]:
    """Features (width,) and class whose gradient at ``before`` points most like ``after`` minus ``before``.

    Args:
        public: records that give the shape and the range of features.
        guesses: where the search starts, one for each class: (classes, width).
        steps: of the search.
    """
    at = trained_tensors(model, before)
    wanted = torch.from_numpy(after - before)
    length = wanted.norm().clamp(min=_LEAST)
    shape, spread = public.shape, float(public.features.max() - public.features.min())
    # First the class: the one whose guess has the gradient most like the difference.
    starts = torch.from_numpy(guesses)
    fits = [
        float(_fit(model, at, starts[number].view(1, *shape), number, wanted, length)) for number in range(len(guesses))
    ]
    label = int(np.argmax(fits))
    found = starts[label].clone().view(1, *shape).requires_grad_()
    optimiser = torch.optim.Adam([found], lr=_STEP * spread)
    best, nearest = fits[label], found.detach().clone()
    for _ in range(steps):
        optimiser.zero_grad()
        fit = _fit(model, at, found, label, wanted, length)
        if float(fit.detach()) > best:
            best, nearest = float(fit.detach()), found.detach().clone()
        (-fit).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return np.asarray(nearest.view(-1).numpy(), dtype=np.float64), label


def _fit(
    model: FlatModel, at: dict[str, Tensor], features: Tensor, label: int, wanted: Tensor, length: Tensor
) -> Tensor:
    """Cosine between the gradient of one record's loss and the wanted direction."""
    tensors = {name: tensor.detach().requires_grad_() for name, tensor in at.items()}
    loss = cross_entropy(model.logits({**fixed_tensors(model), **tensors}, features), torch.tensor([label])).sum()
    gradients = torch.autograd.grad(loss, list(tensors.values()), create_graph=features.requires_grad)
    gradient = torch.cat([part.reshape(-1) for part in gradients])
    result: Tensor = (gradient * wanted).sum() / (gradient.norm().clamp(min=_LEAST) * length)
    return result


def _nearest(found: NDArray[np.float64], truth: NDArray[np.float64], spread: float) -> tuple[float, float]:
    """Cosine and PSNR to the nearest of the true records: (width,), (n, width)."""
    norms = np.linalg.norm(truth, axis=1) * np.linalg.norm(found)
    cosines = truth @ found / np.where(norms > 0.0, norms, 1.0)
    error = ((truth - found) ** 2).mean(axis=1).min()
    return float(cosines.max()), float(10.0 * np.log10(max(spread, _LEAST) ** 2 / max(error, 1e-12)))
