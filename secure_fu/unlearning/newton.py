"""Newton: step from the original model towards the minimiser without the data, on sums of first and second derivatives.

For a convex head with an L2 term this is certified removal (Guo, Goldstein, Hannun, van der Maaten 2020, arXiv
1911.03030), but with noise on the model that is published in place of a secret perturbation of the objective, which
exact sums would show to the server, and with the residual measured by a secure sum in place of a bound on the data.
For any other model it is one round of influence functions after another, and a heuristic.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError, MethodRefused, NonFiniteError
from secure_fu.learning import LinearHead, symmetric_of, triangle_length
from secure_fu.privacy import Phase, Unit, noised
from secure_fu.protocol import LocalTask, ReleasedModel, ReleasedSum, SecureSums
from secure_fu.training import OnRound, Silo, TrainingState, no_observer
from secure_fu.unlearning.guarantee import CertifiedModel, Heuristic
from secure_fu.unlearning.linear_systems import chebyshev, solve_damped
from secure_fu.unlearning.method import Deletion, Outcome, PlannedRounds, UnlearningMethod
from secure_fu.unlearning.newton_task import NewtonSum, NewtonTask, second_bound
from secure_fu.unlearning.residuals import OutputNoise, ResidualBound, obstacle_to_bound

__all__ = ["HessianForm", "Newton"]

_LARGEST_HESSIAN: Final = 512
_MOSTLY_NOISE: Final = 1.75


class HessianForm(StrEnum):
    """How second derivatives are summed: as one matrix, as products with directions, or as the size allows."""

    AUTO = "auto"
    SUM = "sum"
    PRODUCTS = "products"


@dataclass(frozen=True, kw_only=True)
class Newton(UnlearningMethod):
    """A few Newton steps of the objective without the forgotten data, full ones until the gradient is mostly noise.

    From there on the k-th further step is 1 / (k + 1) of a full one, so that the model is the average of full steps and
    their noise counts less and less. Forgotten units enter no sum.

    Formal guarantees:
        Certified where :func:`~secure_fu.unlearning.residuals.obstacle_to_bound` finds none: the last round measures
        the gradient of that objective at the model that the steps arrived at, which bounds how far it is from the exact
        minimiser. What is published is that model with noise of a covariance fixed beforehand; it is compared with the
        minimiser, published with the same noise. The bound on the gradient fails with a probability that is counted
        in delta. If it does not give `forget_epsilon`, nothing is published. Whoever sees the sums, or the models that
        were sent out for them, has no more than the ledger's epsilon: the claim is about the published models alone.

        Everywhere else: heuristic, and a weak one under noise. On the preset `digits-silos` it leaves a backdoor where
        as much fine-tuning leaves it, and with a damping of 0.1 the noise of the sums wrecks the model.

    Attributes:
        steps: Newton steps, each from one sum of gradients.
        hessian: `auto` takes the sum of Hessians for linear heads of up to 512 parameters, else products.
        hessians: steps that begin with a sum of Hessians, where there are such sums; later steps use the last. One will
            do from a trained model; from one with much output noise on it, as after a certified deletion, it takes two.
        products: rounds of products in each step, where there are products.
        damping: added to the curvature where nothing is certified.
        noise_multiplier: of the rounds; 0 for that of training.
        output_noise: standard deviation of each coordinate's noise on the published model; 0 for what public figures
            say that `forget_epsilon` will take.
        forget_epsilon: largest epsilon of the certificate.
        deletions: how many certified deletions in a row `forget_epsilon` is to cover; noise grows with its square root.

    Raises:
        ArgumentError: a setting is out of its domain.
    """

    steps: int = 2
    hessian: HessianForm = HessianForm.AUTO
    hessians: int = 1
    products: int = 8
    damping: float = 1.0
    noise_multiplier: float = 0.0
    output_noise: float = 0.0
    forget_epsilon: float = 1.0
    deletions: int = 1

    name: ClassVar[str] = "newton"
    title: ClassVar[str] = "Newton"

    def __post_init__(self) -> None:
        for name in ("steps", "hessians", "products", "deletions"):
            if getattr(self, name) < 1:
                raise ArgumentError(name, getattr(self, name), "at least 1")
        for name in ("noise_multiplier", "output_noise"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ArgumentError(name, getattr(self, name), "a finite number that is not negative")
        for name in ("damping", "forget_epsilon"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ArgumentError(name, getattr(self, name), "a positive finite number")
        try:
            object.__setattr__(self, "hessian", HessianForm(self.hessian))
        except ValueError:
            raise ArgumentError("hessian", self.hessian, f"one of {', '.join(HessianForm)}") from None

    def check(self, deletion: Deletion) -> None:
        """See :meth:`~secure_fu.unlearning.UnlearningMethod.check`.

        Raises:
            MethodRefused: the client unit; a sum of Hessians of something else than a linear head; or a certificate's
                epsilon is used up by the deletions before.
        """
        if deletion.recipe.unit is Unit.CLIENT:
            raise MethodRefused(
                "method 'newton' needs sums over records or groups, and a client's whole contribution is clipped as "
                "one; for the client unit expected retrain, rollback, scrub or correction"
            )
        if self.hessian is HessianForm.SUM and not isinstance(deletion.model.module, LinearHead):
            name = type(deletion.model.module).__name__
            raise MethodRefused(f"hessian is 'sum' and the model a {name}; expected a LinearHead, or products")
        if obstacle_to_bound(deletion) is None:
            _Run(self, deletion).noise  # noqa: B018 - raises what there is to raise

    def plan(self, deletion: Deletion) -> tuple[PlannedRounds, ...]:
        """Sums of gradients, the measuring one included, and of second derivatives."""
        return _Run(self, deletion).plan()

    def most_rounds(self, trained: int) -> int:
        """Of both forms of the Hessian, the longer one."""
        del trained
        hessians = min(self.steps, self.hessians)
        second = hessians if self.hessian is HessianForm.SUM else max(hessians, self.steps * self.products)
        return self.steps + second + 1

    def guarantee(self, deletion: Deletion) -> CertifiedModel | Heuristic:
        """Certified at `forget_epsilon` where the conditions hold, for a run that publishes; otherwise heuristic."""
        run = _Run(self, deletion)
        return run.heuristic() if run.noise is None else run.promised(run.noise)

    def client_tasks(self, silo: Silo) -> Mapping[str, LocalTask]:
        """See :meth:`~secure_fu.unlearning.UnlearningMethod.client_tasks`."""
        return {self.purpose: NewtonTask(silo)}

    def run(self, sums: SecureSums, deletion: Deletion, on_round: OnRound = no_observer) -> Outcome:
        """See :meth:`~secure_fu.unlearning.UnlearningMethod.run`. `on_round` sees models before their output noise.

        The output noise is fresh in each run. Two runs' models together have half of it: publish one.

        Raises:
            GuaranteeError: the measured residual does not give `forget_epsilon`.
            NonFiniteError: a step left the finite numbers.
        """
        self.check(deletion)
        return _Run(self, deletion).run(sums, on_round)


class _Run:
    """One run of the method for one deletion: the server's side, on public figures and released sums."""

    def __init__(self, method: Newton, deletion: Deletion) -> None:
        self.method: Final = method
        self.deletion: Final = deletion
        module = deletion.model.module
        self.head: Final = module if isinstance(module, LinearHead) else None
        self.obstacle: Final = obstacle_to_bound(deletion)
        form = method.hessian
        small = self.head is not None and deletion.model.dimension <= _LARGEST_HESSIAN
        self.whole: Final = form is HessianForm.SUM or (form is HessianForm.AUTO and small)

    # What is public beforehand

    def _rounds(self, kind: NewtonSum, count: int) -> PlannedRounds:
        recipe, dimension = self.deletion.recipe, self.deletion.model.dimension
        planned = PlannedRounds.of(self.deletion, count, forgotten_rate=0.0)
        clip = recipe.clip_norm
        if kind is not NewtonSum.GRADIENT:
            clip = min(clip, second_bound(self.head, clip))
        elif self.obstacle is None and self.head is not None:
            clip = self.head.gradient_bound
        return replace(
            planned,
            noise_multiplier=self.method.noise_multiplier or recipe.noise_multiplier,
            clip_norm=clip,
            length=triangle_length(dimension) if kind is NewtonSum.HESSIAN else dimension,
        )

    def plan(self) -> tuple[PlannedRounds, ...]:
        steps, measuring = self.method.steps, int(self.obstacle is None)
        second = (
            self._rounds(NewtonSum.HESSIAN, min(steps, self.method.hessians))
            if self.whole
            else self._rounds(NewtonSum.PRODUCT, steps * self.method.products)
        )
        return second, self._rounds(NewtonSum.GRADIENT, steps + measuring)

    @cached_property
    def bound(self) -> ResidualBound:
        return ResidualBound(
            deletion=self.deletion,
            rounds=self._rounds(NewtonSum.GRADIENT, 1),
            failure=OutputNoise.failure(self.deletion),
        )

    @cached_property
    def noise(self) -> OutputNoise | None:
        """None where nothing is certified."""
        if self.obstacle is not None:
            return None
        method = self.method
        return OutputNoise.planned(
            self.deletion,
            epsilon=method.forget_epsilon,
            sigma=method.output_noise,
            # One step for the way there; the others average.
            shift=self.bound.planned_distance(max(1, method.steps - 1)),
            deletions=method.deletions,
        )

    @property
    def damping(self) -> float:
        """What makes the curvature invertible: the objective's own L2 term, and more where nothing is certified."""
        own = self.deletion.recipe.weight_decay
        return own if self.obstacle is None else own + self.method.damping

    def heuristic(self) -> Heuristic:
        return Heuristic(f"{self.method.steps} Newton steps of the retained data's loss; {self.obstacle}")

    def promised(self, noise: OutputNoise, clients: int | None = None) -> CertifiedModel:
        clients = self.deletion.cohort if clients is None else clients
        return noise.certificate(noise.limit, *self._words(noise, noise.limit, clients))

    def _words(self, noise: OutputNoise, shift: float, clients: int) -> tuple[str, tuple[str, ...]]:
        """Reason and assumptions."""
        deletion, failure = self.deletion, OutputNoise.failure(self.deletion)
        reason = (
            f"it is within {shift:.3g} of the exact minimiser over the retained records of the {clients} clients in "
            f"the last sum, by the gradient measured there (Hessian error included, wrong with probability at most "
            f"{failure:.1g}, which delta includes), and both are compared under noise of {noise.sigma:.3g} a coordinate"
        )
        before = sum(isinstance(guarantee, CertifiedModel) for guarantee in deletion.earlier)
        if before:
            reason += f"; the residuals of {before} certified deletions before it are added"
        assumptions = (
            "whoever compares sees neither the sums nor the models that were sent to clients for them, and is told "
            "of no run that was refused",
            f"clients send true gradients, {deletion.assured} of them at least with their noise, and none holds more "
            f"than {deletion.recipe.nominal_units} records",
            "the head's features are public",
            "the request and the settings are taken as given; this is the only run, for each more, published or not, "
            "adds its probability of failure to delta",
        )
        return reason, assumptions

    # What is asked of the clients

    def run(self, sums: SecureSums, on_round: OnRound) -> Outcome:
        state = self.method.start_state(self.deletion)
        hessian = None
        averaged = 0
        for step in range(self.method.steps):
            if self.whole and step < self.method.hessians:
                released = self._ask(sums, NewtonSum.HESSIAN, state.model)
                hessian = symmetric_of(released.values * self._scale(NewtonSum.HESSIAN), state.model.dimension)
                on_round(_after(state, released))
            released, mean = self._gradient(sums, state)
            # At the average of k steps the gradient is the noise of their sums over root k, and its own.
            arrived = np.linalg.norm(mean) * self._divisor <= _MOSTLY_NOISE * self.bound.noise_norm(released)
            averaged = averaged + 1 if arrived else 1
            if hessian is not None:
                found = solve_damped(hessian, self.damping, mean)
            else:
                on_round(_after(state, released))
                released, found = self._solve_by_products(sums, state, mean, on_round)
            state = self._moved(state, released, found / averaged)
            on_round(state)
        noise = self.noise
        if noise is None:
            return Outcome(state=state, guarantee=self.heuristic())
        released, _ = self._gradient(sums, state)
        model = state.model.vector.astype(np.float64)
        shift = self.bound.distance(released, model)
        noise.certificate(shift, "measured", ())
        # The measured distance is a sum's, which who sees published models alone has not seen: they get its limit.
        guarantee = self.promised(noise, len(released.participants))
        published = noised(model, sigma=noise.sigma, step=noise.step, stream=_SystemWords())
        state = replace(_after(state, released), model=state.model.derived(published, released))
        on_round(state)
        return Outcome(state=state, guarantee=guarantee)

    def _ask(self, sums: SecureSums, kind: NewtonSum, model: ReleasedModel) -> ReleasedSum:
        recipe, rounds = self.deletion.recipe, self._rounds(kind, 1)
        request = recipe.request(
            purpose=self.method.purpose,
            phase=Phase.UNLEARNING,
            model=model,
            forgotten_rate=0.0,
            settings={"sum": str(kind)},
        )
        return sums.secure_sum(
            replace(
                request,
                noise_multiplier=rounds.noise_multiplier,
                clip_norm=rounds.clip_norm,
                length=rounds.length,
            )
        )

    @property
    def _divisor(self) -> float:
        recipe = self.deletion.recipe
        return recipe.sampling_rate * recipe.nominal_units

    def _gradient(self, sums: SecureSums, state: TrainingState) -> tuple[ReleasedSum, NDArray[np.float64]]:
        """A sum of gradients, and the gradient of the objective that follows from it."""
        released = self._ask(sums, NewtonSum.GRADIENT, state.model)
        decay = self.deletion.recipe.weight_decay
        return released, released.values / self._divisor + decay * state.model.vector.astype(np.float64)

    def _scale(self, kind: NewtonSum) -> float:
        """Takes a sum of second derivatives to their mean; undoes how clients scaled them to the clip norm."""
        clip = self._rounds(kind, 1).clip_norm
        return second_bound(self.head, clip) / clip / self._divisor

    def _solve_by_products(
        self, sums: SecureSums, state: TrainingState, right: NDArray[np.float64], on_round: OnRound
    ) -> tuple[ReleasedSum, NDArray[np.float64]]:
        """The last of the sums, and the step that follows from them; observes all sums but that one."""
        asked: list[ReleasedSum] = []

        def product(direction: NDArray[np.float64]) -> NDArray[np.float64]:
            if asked:
                on_round(_after(state, asked[-1]))
            # Of length 1, so that the bound of a record's product, and with it the noise, is known beforehand.
            length = float(np.linalg.norm(direction))
            if length == 0.0 or not math.isfinite(length):
                raise NonFiniteError("a direction of Newton's step is zero or not finite; expected more damping")
            sent = np.concatenate([state.model.vector, (direction / length).astype(np.float32)])
            asked.append(self._ask(sums, NewtonSum.PRODUCT, ReleasedModel(sent)))
            return length * asked[-1].values * self._scale(NewtonSum.PRODUCT) + self.damping * direction

        # A record's curvature is at most the bound of its product; nominal_units bounds how many there are.
        clip = self._rounds(NewtonSum.PRODUCT, 1).clip_norm
        found = chebyshev(
            product,
            right,
            lowest=self.damping,
            highest=self.damping + second_bound(self.head, clip),
            products=self.method.products,
        )
        return asked[-1], found

    def _moved(self, state: TrainingState, released: ReleasedSum, step: NDArray[np.float64]) -> TrainingState:
        with np.errstate(over="ignore", invalid="ignore"):
            moved = state.model.vector.astype(np.float64) - step
            finite = bool(np.isfinite(moved.astype(np.float32)).all())
        if not finite:
            raise NonFiniteError("the model left the finite numbers in a Newton step; expected more damping")
        return replace(_after(state, released), model=state.model.derived(moved, released))


def _after(state: TrainingState, released: ReleasedSum) -> TrainingState:
    return replace(state, last_round=released.round_number)


class _SystemWords:
    """The operating system's generator as a stream: no word is handed out twice."""

    def words(self, count: int) -> NDArray[np.uint64]:
        """`count` fresh words, shape (count,)."""
        return np.frombuffer(os.urandom(8 * count), dtype="<u8").astype(np.uint64)
