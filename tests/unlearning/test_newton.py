"""Newton: its steps arrive where retraining does, its rounds are those planned, and its clients keep their bounds."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import replace

import numpy as np
import pytest
from newton_cast import (
    CLASSES,
    CLIENTS,
    DECAY,
    DIMENSION,
    HEAD,
    INPUTS,
    SIZE,
    TERMS,
    ClientSums,
    head_deletion,
    head_silos,
    minimiser,
)
from unlearning_cast import MODEL, Words, deletion, records, silo

from secure_fu.errors import ArgumentError, GuaranteeError, MethodRefused, NonFiniteError
from secure_fu.learning import CurvatureSums, FlatModel, LinearHead, mean_loss, triangle_length, triangle_of
from secure_fu.privacy import Unit
from secure_fu.protocol import ReleasedSum, RoundTerms
from secure_fu.unlearning import CertifiedModel, Heuristic
from secure_fu.unlearning.linear_systems import chebyshev, solve_damped
from secure_fu.unlearning.newton import HessianForm, Newton
from secure_fu.unlearning.newton_task import NewtonTask


def first_state(method, sums, case):
    """The model after the first step, before any output noise."""
    seen = []
    with contextlib.suppress(GuaranteeError):
        method.run(sums, case, seen.append)
    moved = next(state.model for state in seen if state.model is not case.original.model)
    return moved.vector.astype(np.float64)


# Where it arrives


class RidgeSums:
    """Exact sums of a quadratic loss, |V x - e_y|^2 / 2 a record, over what silos retain."""

    def __init__(self, silos):
        self.inputs = np.concatenate([HEAD.module.bounded(s.retained_records.features).numpy() for s in silos])
        self.inputs = self.inputs.astype(np.float64)
        self.targets = np.eye(CLASSES)[np.concatenate([s.retained_records.labels.numpy() for s in silos])]
        self.hessian = np.kron(np.eye(CLASSES), self.inputs.T @ self.inputs)
        self.numbers = 0

    def minimiser(self):
        """Retrained to the end: the normal equations, class by class."""
        nominal = TERMS["nominal_units"]
        square = self.inputs.T @ self.inputs / nominal + DECAY * np.eye(INPUTS + 1)
        return np.linalg.solve(square, self.inputs.T @ self.targets / nominal).T.reshape(-1)

    def secure_sum(self, request):
        vector = request.model.vector.astype(np.float64)
        kind = request.settings["sum"]
        if kind == "hessian":
            values = triangle_of(self.hessian)
        elif kind == "product":
            values = self.hessian @ vector[DIMENSION:]
        else:
            values = self.hessian @ vector - (self.inputs.T @ self.targets).T.reshape(-1)
        self.numbers += 1
        return ReleasedSum(
            values=values,
            purpose=request.purpose,
            round_number=self.numbers,
            participants=tuple(f"client-{index}" for index in range(CLIENTS)),
            transcript=hashlib.sha256(str(self.numbers).encode()).digest(),
        )


@pytest.mark.parametrize("form", ["sum", "products"])
def test_one_step_of_a_quadratic_loss_is_retraining_to_numerical_precision(form):
    sums = RidgeSums(head_silos())
    start = np.random.default_rng(3).normal(size=DIMENSION) * 3.0
    found = first_state(Newton(hessian=form, products=60, output_noise=1.0), sums, head_deletion(start))
    expected = sums.minimiser()
    assert np.linalg.norm(expected) > 0.5
    # Models are float32: half a unit in the last place is all that may be off. Directions of products are, too.
    unit = 2.0**-24 * np.abs(expected).max() if form == "sum" else 2.0**-24 * np.linalg.norm(start - expected)
    assert np.abs(found - expected).max() < unit + 1e-9


def test_a_step_without_the_l2_term_would_arrive_elsewhere():
    sums = RidgeSums(head_silos())
    start = np.random.default_rng(3).normal(size=DIMENSION)
    other = head_deletion(start, weight_decay=2 * DECAY)
    found = first_state(Newton(output_noise=1.0), sums, other)
    assert np.abs(found - sums.minimiser()).max() > 1e-2


@pytest.mark.parametrize("form", ["sum", "products"])
def test_on_clients_sums_it_arrives_at_the_minimiser_without_the_data(form):
    silos = head_silos()
    before, after = minimiser(silos, forgotten=True), minimiser(silos, forgotten=False)
    assert np.linalg.norm(before - after) > 0.2
    method = Newton(steps=1, hessian=form, products=25, output_noise=1.0)
    found = first_state(method, ClientSums(silos), head_deletion(before))
    distance = np.linalg.norm(found - after)
    assert distance < 0.15 * np.linalg.norm(before - after)
    # And from there on quadratically: the loss is not quadratic, and the Hessian was that of the start.
    again = first_state(method, ClientSums(silos), head_deletion(found))
    assert np.linalg.norm(again - after) < 0.05 * distance


def test_from_a_model_with_much_noise_on_it_a_second_hessian_takes_it_there():
    silos = head_silos()
    after = minimiser(silos, forgotten=False)
    start = after + 2.5 * np.random.default_rng(1).normal(size=DIMENSION)
    reached = {}
    for hessians in (1, 3):
        seen = []
        method = Newton(steps=3, hessians=hessians, output_noise=1.0, noise_multiplier=0.01)
        with contextlib.suppress(GuaranteeError):
            method.run(ClientSums(silos), head_deletion(start), seen.append)
        last = [state.model.vector for state in seen][method.rounds(head_deletion(start)) - 2]
        reached[hessians] = np.linalg.norm(last - after)
        assert method.plan(head_deletion(start))[0].count == hessians
    assert reached[3] < 0.1 * reached[1]


def test_later_steps_average_the_noise_of_the_sums():
    silos = head_silos()
    after = minimiser(silos, forgotten=False)
    method = {steps: Newton(steps=steps, output_noise=100.0) for steps in (1, 4)}
    errors = {
        steps: [
            np.linalg.norm(last_mean(own, ClientSums(silos, assured=CLIENTS, seed=seed), after) - after)
            for seed in range(30)
        ]
        for steps, own in method.items()
    }
    assert np.mean(errors[4]) == pytest.approx(np.mean(errors[1]) / 2.0, rel=0.2)


def last_mean(method, sums, start):
    """The last model before the output noise."""
    seen = []
    method.run(sums, head_deletion(start), seen.append)
    return seen[-2].model.vector.astype(np.float64)


def test_heuristic_steps_lower_the_loss_of_the_retained_records_of_any_model():
    draw = np.random.default_rng(0)
    silos = [silo(records(30, seed), draw.random(30) < 0.2, name=f"s{seed}") for seed in range(3)]
    case = deletion(sampling_rate=1.0, nominal_units=90, saturation=100.0, clip_norm=5.0)
    outcome = Newton(steps=4, products=6, damping=0.3).run(ClientSums(silos), case)
    assert isinstance(outcome.guarantee, Heuristic)

    def loss(state):
        vector = state.model.vector.astype(np.float64)
        return np.mean([mean_loss(MODEL, vector, own.retained_records) for own in silos])

    assert loss(outcome.state) < 0.7 * loss(case.original)
    assert outcome.state.rounds == case.original.rounds


# The linear systems


def test_the_semi_iteration_converges_at_its_rate_and_bears_noise():
    draw = np.random.default_rng(2)
    basis, _ = np.linalg.qr(draw.normal(size=(30, 30)))
    values = np.linspace(0.05, 1.0, 30)
    matrix, right = basis @ np.diag(values) @ basis.T, draw.normal(size=30)
    expected = np.linalg.solve(matrix, right)
    rate = (np.sqrt(20.0) - 1.0) / (np.sqrt(20.0) + 1.0)
    for products in (1, 5, 20, 60):
        found = chebyshev(lambda v: matrix @ v, right, lowest=0.05, highest=1.0, products=products)
        assert np.linalg.norm(found - expected) <= 2.0 * rate ** (products + 1) * np.linalg.norm(expected) + 1e-12
    noisy = chebyshev(
        lambda v: matrix @ v + 1e-3 * np.linalg.norm(v) * draw.normal(size=30),
        right,
        lowest=0.05,
        highest=1.0,
        products=60,
    )
    assert np.linalg.norm(noisy - expected) < 0.1 * np.linalg.norm(expected)
    for lowest, highest in ((0.0, 1.0), (1.0, 1.0), (2.0, 1.0)):
        with pytest.raises(ArgumentError, match="lowest"):
            chebyshev(lambda v: v, right, lowest=lowest, highest=highest, products=1)


def test_noise_cannot_make_a_damped_matrix_indefinite():
    matrix = np.diag([1.0, -0.7])  # a true Hessian has no such eigenvalue
    assert solve_damped(matrix, 0.5, np.array([3.0, 1.0])).tolist() == pytest.approx([2.0, 2.0])
    with pytest.raises(ArgumentError, match="damping"):
        solve_damped(matrix, 0.0, np.ones(2))


# Rounds


@pytest.mark.parametrize("form", ["sum", "products"])
@pytest.mark.parametrize("certified", [True, False])
def test_the_rounds_asked_for_are_those_planned(form, certified):
    silos = head_silos()
    case = head_deletion(
        minimiser(silos, forgotten=True), **({} if certified else {"sampling_rate": 0.5, "noise_multiplier": 2.0})
    )
    method = Newton(steps=2, hessian=form, products=3, noise_multiplier=0.7, output_noise=50.0)
    sums = ClientSums(silos, assured=CLIENTS)
    outcome = method.run(sums, case)
    assert isinstance(outcome.guarantee, CertifiedModel) is certified

    def terms(item):
        names = ("clip_norm", "saturation", "noise_multiplier", "retained_rate", "forgotten_rate", "length")
        return tuple(getattr(item, name) for name in names)

    planned = sorted(terms(rounds) for rounds in method.plan(case) for _ in range(rounds.count))
    assert planned == sorted(terms(request) for request in sums.requests)
    assert method.rounds(case) == len(sums.requests) <= method.most_rounds(5)
    assert {request.forgotten_rate for request in sums.requests} == {0.0}
    assert {request.noise_multiplier for request in sums.requests} == {0.7}
    assert {request.retained_rate for request in sums.requests} == {case.recipe.sampling_rate}
    lengths = {request.settings["sum"]: request.length for request in sums.requests}
    assert lengths["gradient"] == DIMENSION
    assert lengths.get("hessian", triangle_length(DIMENSION)) == triangle_length(DIMENSION)


def test_auto_sums_hessians_of_small_heads_only():
    wide = FlatModel(LinearHead(None, inputs=256, classes=3))
    for model, length in ((HEAD, triangle_length(DIMENSION)), (wide, wide.dimension)):
        case = head_deletion(np.zeros(model.dimension), model)
        second, gradients = Newton().plan(case)
        assert second.length == length
        assert gradients.count == 3
    second, _ = Newton().plan(deletion())
    assert second.count == 16


def test_settings_outside_their_domain_are_refused():
    for name, value in (
        ("steps", 0),
        ("hessians", 0),
        ("products", 0),
        ("deletions", 0),
        ("noise_multiplier", -1.0),
        ("output_noise", float("nan")),
        ("damping", 0.0),
        ("forget_epsilon", float("inf")),
        ("hessian", "cg"),
    ):
        with pytest.raises(ArgumentError) as error:
            Newton(**{name: value})
        assert error.value.argument == name
    assert Newton(hessian="products").hessian is HessianForm.PRODUCTS


def test_what_it_cannot_serve_is_refused_before_any_client_is_asked():
    sums = ClientSums([])
    with pytest.raises(MethodRefused, match="client unit"):
        Newton().run(sums, deletion(unit=Unit.CLIENT))
    with pytest.raises(MethodRefused, match="expected a LinearHead"):
        Newton(hessian="sum").run(sums, deletion())
    assert not sums.requests


def test_a_step_that_leaves_the_finite_numbers_raises():
    silos = head_silos()

    class Broken(ClientSums):
        def secure_sum(self, request):
            released = super().secure_sum(request)
            huge = np.full(request.length, 1e120)
            return replace(released, values=huge) if request.settings["sum"] == "gradient" else released

    with pytest.raises(NonFiniteError):
        Newton(hessian="sum").run(Broken(silos), head_deletion(np.zeros(DIMENSION)))


# The client's side


def terms(kind, length, unit=Unit.RECORD, clip_norm=1.5, retained=1.0):
    return RoundTerms(
        purpose="unlearn/newton",
        round_number=0,
        unit=unit,
        clip_norm=clip_norm,
        retained_rate=retained,
        forgotten_rate=0.0,
        settings={"sum": kind},
        length=length,
    )


@pytest.mark.parametrize("kind", ["gradient", "hessian", "product"])
def test_each_retained_record_moves_a_sum_by_at_most_the_clip_norm_and_no_forgotten_one_does(kind):
    model = FlatModel(LinearHead(None, inputs=INPUTS, classes=CLASSES, bound=3.0))  # Hessians of norm up to 4.5
    draw = np.random.default_rng(1)
    sent = draw.normal(size=DIMENSION)
    if kind == "product":
        direction = draw.normal(size=DIMENSION)
        sent = np.concatenate([sent, 50.0 * direction])  # a server that sends a longer one than it should
    sent = sent.astype(np.float32)
    length = triangle_length(DIMENSION) if kind == "hessian" else DIMENSION
    own = head_silos(model)[0]
    whole = NewtonTask(own).contribution(sent, terms(kind, length), Words())
    moved = []
    for index in range(SIZE):
        marks = own.forgotten.copy()
        marks[index] = True
        moved.append(
            np.linalg.norm(whole - NewtonTask(own.forgetting(marks)).contribution(sent, terms(kind, length), Words()))
        )
    assert max(moved) <= 1.5 * (1 + 1e-9)
    assert max(moved) > 0.3
    assert np.allclose(np.array(moved)[own.forgotten], 0.0)


def test_hessians_above_the_clip_norm_are_scaled_and_not_distorted():
    model = FlatModel(LinearHead(None, inputs=INPUTS, classes=CLASSES, bound=3.0))
    silos = head_silos(model)
    before = minimiser(silos, forgotten=True, head=model)
    assert 4.3 < model.module.hessian_bound < 6.0
    for form in ("sum", "products"):
        scaled, plain = (
            first_state(
                Newton(hessian=form, products=10, output_noise=1.0),
                ClientSums(silos),
                head_deletion(before, model, clip_norm=clip, saturation=clip * CLIENTS * SIZE),
            )
            for clip in (4.3, 6.0)
        )
        assert np.abs(scaled - plain).max() < 1e-6
        assert np.abs(scaled - before).max() > 0.01


def test_groups_are_bounded_as_a_whole():
    own = head_silos(groups=True)[1]
    vector = np.random.default_rng(2).normal(size=DIMENSION).astype(np.float32)
    round_terms = terms("hessian", triangle_length(DIMENSION), Unit.GROUP, clip_norm=0.2)
    found = NewtonTask(own).contribution(vector, round_terms, Words())
    bound = HEAD.module.hessian_bound
    expected = CurvatureSums(HEAD).hessian_sum(vector.astype(np.float64), own.records, clip_norm=bound, by_group=True)
    assert np.allclose(found, expected * 0.2 / bound, atol=1e-12)


def test_clients_sample_at_the_retained_rate():
    own = head_silos()[1]
    vector = np.zeros(2 * DIMENSION, dtype=np.float32)
    vector[DIMENSION:] = 1.0
    found = NewtonTask(own).contribution(vector, terms("product", DIMENSION, retained=0.5), Words(4))
    kept = Words(4).words(SIZE) < np.uint64(2**63)
    assert 10 < kept.sum() < 50
    expected = CurvatureSums(HEAD).product_sum(
        np.zeros(DIMENSION), np.ones(DIMENSION), own.records.subset(kept), clip_norm=0.5
    )
    assert np.allclose(found, expected, atol=1e-12)


def test_a_task_refuses_what_it_was_not_made_for():
    task = NewtonTask(head_silos()[0])
    vector = np.zeros(DIMENSION, dtype=np.float32)
    for kind, length, sent in (
        ("hessian", DIMENSION, vector),
        ("gradient", triangle_length(DIMENSION), vector),
        ("product", DIMENSION, vector),
        ("moments", DIMENSION, vector),
        ("gradient", DIMENSION, np.concatenate([vector, vector])),
    ):
        with pytest.raises(ArgumentError):
            task.contribution(sent, terms(kind, length), Words())
    with pytest.raises(ArgumentError, match="unit"):
        task.contribution(vector, terms("gradient", DIMENSION, Unit.CLIENT), Words())
    dense = NewtonTask(silo(records()))
    with pytest.raises(ArgumentError, match="LinearHead"):
        dense.contribution(
            MODEL.vector().astype(np.float32), terms("hessian", triangle_length(MODEL.dimension)), Words()
        )
