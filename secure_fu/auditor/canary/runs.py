"""One encrypted run of the user's own plan and clients in which canaries ride, and a zero round after it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secure_fu.audit.canaries import RAW_LENGTH, CanaryDirections, CanaryTask, NoiseAlone
from secure_fu.audit.registration import Registration, register_canaries
from secure_fu.auditor.canary.tapped_parties import CapturedUpload, TappedParties, UploadTap
from secure_fu.crypto import CommitteeTerms, Identity, OsRandomness, Randomness
from secure_fu.errors import ArgumentError
from secure_fu.federation import DEFAULT_COMMITTEE
from secure_fu.federation.costs import predicted_events
from secure_fu.federation.fitting import check_fits
from secure_fu.file_names import TRANSCRIPT
from secure_fu.learning import FlatModel, PerRecordGradients, Records
from secure_fu.planning import Plan
from secure_fu.privacy import MAX_SUMMED_VECTORS, GaussianSumEvent, Phase, Subject, Unit, pld_epsilon, renyi_epsilon
from secure_fu.protocol import (
    LocalTask,
    ReleasedModel,
    ReleasedSum,
    RoundTraffic,
    SecureSums,
    SumRequest,
    verify_against_ledger,
    verify_transcript,
)
from secure_fu.protocol.header import Header, grid_of
from secure_fu.scheme_names import KAHE
from secure_fu.training import TRAIN, Recipe, Silo, StackedUpdates, TrainingState, train, training_task
from secure_fu.unlearning.method import PlannedRounds

__all__ = ["ZERO", "CanaryRun", "canary_run", "check_canaries"]

ZERO: Final = "statistic/zero"
"""Purpose of the zero round, in which everybody sends noise alone."""

_CANARIES, _ZEROS = "canaries", "zero"
_CAPTURED_UPLOADS = 16


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CanaryRun:
    """What a canary run has left: all that was released, and what the auditor alone knows.

    Attributes:
        scheme_name, plan: of the run; for the client unit the plan's minimum cohort counts the canary clients as well.
        registration: written down before the run.
        directions: of the m canaries.
        inserted: the coins, shape (m,).
        holders: names of the clients that hold canaries; for the client unit the canaries themselves.
        holder: position in `holders` of each canary's, shape (m,).
        took_part: whether a holder's upload is in a round's sum, shape (rounds, holders).
        sums: what was released, shape (rounds, d).
        known: what the clients contributed beside canaries, shape (rounds, d): what an adversary may know by the
            definition of differential privacy.
        uploads: number of uploads in each sum, shape (rounds,).
        headers: of the rounds.
        colluding: integers that the clients named here have uploaded, noise included, scaled back; shape (rounds, d).
        known_colluding: of `known` what they contributed; shape (rounds, d).
        first_model, last_model: shape (d,).
        zeros: what the zero rounds released, shape (zero rounds, d).
        zero_uploads: number of uploads in each.
        zero_header: of the zero rounds.
        claim: what the ledger says that a canary unit in all rounds has paid, epsilon at the registration's delta.
        recomputed: the same from the signed headers, by privacy loss distributions.
        captured: uploads of the first round as the server got them, of some clients that hold canaries.
        members: identities of as many committee members as can open a sum; of them, the corrupt ones can not.
        body_sizes: the sizes in bytes that uploads of a round had, ciphertext and shares, a set a round.
        traffic: of all rounds.
    """

    scheme_name: str
    plan: Plan
    registration: Registration
    directions: CanaryDirections
    inserted: NDArray[np.bool_]
    holders: tuple[str, ...]
    holder: NDArray[np.int64]
    took_part: NDArray[np.bool_]
    sums: NDArray[np.float64]
    known: NDArray[np.float64]
    uploads: NDArray[np.int64]
    headers: tuple[Header, ...]
    colluding: Mapping[str, NDArray[np.float64]]
    known_colluding: Mapping[str, NDArray[np.float64]]
    first_model: NDArray[np.float32]
    last_model: NDArray[np.float32]
    zeros: NDArray[np.float64]
    zero_uploads: NDArray[np.int64]
    zero_header: Header
    claim: float
    recomputed: float
    captured: tuple[CapturedUpload, ...]
    members: Mapping[str, Identity] = field(repr=False)
    body_sizes: tuple[frozenset[int], ...]
    traffic: tuple[RoundTraffic, ...]


def check_canaries(canaries: int, dimension: int) -> None:
    """Refuse a number of canaries that a model of `dimension` parameters has no room for.

    Raises:
        ArgumentError: there are more canaries than parameters.
    """
    if canaries > dimension:
        raise ArgumentError("canaries", canaries, f"at most {dimension}, as many as parameters, to be orthogonal")


def canary_run(
    module: nn.Module,
    clients: Mapping[str, Records],
    plan: Plan,
    *,
    canaries: int = 1000,
    rounds: int | None = None,
    zero_rounds: int = 1,
    scheme_name: str = KAHE,
    committee: CommitteeTerms = DEFAULT_COMMITTEE,
    level: float = 0.95,
    alarm: float = 0.01,
    seed: int | None = None,
    vanishes: Callable[[int, str], bool] = lambda _round, _client: False,
    directory: Path | None = None,
    encryption_processes: int = 0,
    randomness: Randomness | None = None,
) -> CanaryRun:
    """Run training rounds with canaries, then zero rounds; parties, messages, encryption and noise are the real ones.

    Record and group unit: the clients hold the canaries, in equal numbers, beside their own records. Client unit: every
    canary is one more client, and the minimum cohort grows by their number, so that each adds its share of the noise as
    a client of so large a federation would.

    Args:
        module, clients, plan: as of :class:`~secure_fu.federation.Federation`; all clients take part in all rounds.
        canaries: m, at most the parameters of the model.
        rounds: of training; None for all of the plan.
        zero_rounds: rounds of noise alone; more of them make up for a small model.
        scheme_name, committee, vanishes, encryption_processes: as of the federation.
        level: of each bound by itself.
        alarm: probability at most with which a faultless run is flagged.
        seed: of coins and directions, to repeat an audit; None draws them from the operating system. Whoever runs the
            federation must not know it beforehand.
        directory: where ledger, transcript, roster, policy and registration are kept; None keeps none of them.
        randomness: of sampling and noise; the operating system's unless a test needs otherwise.

    Raises:
        ArgumentError: a number is out of range: more canaries than parameters, fewer than 20, no rounds.
        DataError: a client's records do not fit the module.
        BudgetExceededError: the plan's budget does not pay for so many rounds.
    """
    recipe = plan.recipe
    count = recipe.rounds if rounds is None else rounds
    if not 1 <= count <= recipe.rounds:
        raise ArgumentError("rounds", count, f"1 to {recipe.rounds}, those that the plan pays for")
    if zero_rounds < 1:
        raise ArgumentError("zero_rounds", zero_rounds, "at least 1")
    for name, records in clients.items():
        check_fits(module, name, records)
        if len(records) + canaries > MAX_SUMMED_VECTORS:
            raise ArgumentError("canaries", canaries, f"few enough for {MAX_SUMMED_VECTORS} vectors a client")
    model = FlatModel(module)
    check_canaries(canaries, model.dimension)
    entropy = np.random.SeedSequence(seed)
    direction_seed, coin_seed = (int(child.generate_state(1, np.uint64)[0]) for child in entropy.spawn(2))
    directions = CanaryDirections(dimension=model.dimension, count=canaries, seed=direction_seed)
    generator = np.random.default_rng(coin_seed)
    inserted = generator.random(canaries) < 0.5
    own = tuple(sorted(clients))
    if recipe.unit is Unit.CLIENT:
        holders = tuple(f"canary-{number:0{len(str(canaries - 1))}}" for number in range(canaries))
        holder = np.arange(canaries)
        taken = sorted(set(holders) & set(own))
        if taken:
            raise ArgumentError("clients", taken, "names other than those of canary clients")
        plan = replace(plan, minimum_cohort=plan.minimum_cohort + canaries)
        everybody = tuple(sorted((*own, *holders)))
    else:
        holders, everybody = own, own
        holder = generator.permutation(np.arange(canaries) % len(own))
    if plan.minimum_cohort > len(everybody):
        raise ArgumentError("plan.minimum_cohort", plan.minimum_cohort, f"at most {len(everybody)}, who take part")

    with tempfile.TemporaryDirectory(prefix="secure-fu-canaries-") as scratch:
        place = Path(scratch) if directory is None else directory
        place.mkdir(parents=True, exist_ok=True)
        salt = os.urandom(16)
        registration = _registered(
            plan,
            model.dimension,
            len(everybody),
            count,
            canaries,
            level=level,
            alarm=alarm,
            coins_digest=hashlib.sha256(salt + np.packbits(inserted).tobytes()).hexdigest(),
        )
        with (place / "registration.json").open("x", encoding="utf-8") as file:
            json.dump(registration.to_json(), file, indent=1)
        colluders = own[: plan.colluders]
        known = {name: _Known() for name in (*colluders, "")}
        tasks = _tasks(clients, holders, holder, directions, inserted, model, recipe.unit, known)
        parties = TappedParties(
            everybody,
            plan=plan,
            scheme_name=scheme_name,
            terms=committee,
            purposes=frozenset({TRAIN, ZERO}),
            directory=place,
            cohort=lambda _round: everybody,
            vanishes=vanishes,
            encryption_processes=encryption_processes,
            randomness=OsRandomness() if randomness is None else randomness,
        )
        with closing(parties):
            tap = parties.tap(watched=colluders, purpose=TRAIN, capture=holders[:_CAPTURED_UPLOADS])
            sums = parties.sums(
                _CANARIES, parent=None, tasks=tasks, transcript=parties.server.transcript(_CANARIES), first_round=0
            )
            kept = _Kept(sums)
            first = TrainingState.initial(ReleasedModel.public(model.vector()))
            last = train(kept, recipe, first, count)
            zero_tap = parties.tap(watched=(), purpose=ZERO)
            # A root of its own in the ledger: nobody's data is in it, so that it need not fit beside the training.
            zero_sums = parties.sums(
                _ZEROS, parent=None, tasks=tasks, transcript=parties.server.transcript(_ZEROS), first_round=0
            )
            zeros = _Kept(zero_sums)
            for _ in range(zero_rounds):
                zeros.secure_sum(_zero_request(recipe, last.model))
            claim, recomputed = _claims(parties, place, holders, plan.budget.delta)
            members = parties.members(committee.threshold) if scheme_name == KAHE else {}
        return CanaryRun(
            scheme_name=scheme_name,
            plan=plan,
            registration=registration,
            directions=directions,
            inserted=inserted,
            holders=holders,
            holder=holder,
            took_part=np.array([[name in set(each.participants) for name in holders] for each in kept.released]),
            sums=np.stack([each.values for each in kept.released]),
            known=np.sum([each.rows(kept.released) for each in known.values()], axis=0),
            uploads=np.array([len(each.participants) for each in kept.released]),
            headers=tuple(tap.headers[each.round_number][0] for each in kept.released),
            colluding={name: _uploaded(tap, name, kept.released) for name in colluders},
            known_colluding={name: known[name].rows(kept.released) for name in colluders},
            first_model=first.model.vector,
            last_model=last.model.vector,
            zeros=np.stack([each.values for each in zeros.released]),
            zero_uploads=np.array([len(each.participants) for each in zeros.released]),
            zero_header=next(iter(zero_tap.headers.values()))[0],
            claim=claim,
            recomputed=recomputed,
            captured=tuple(tap.captured),
            members=members,
            body_sizes=tuple(frozenset(tap.sizes[each.round_number]) for each in kept.released),
            traffic=(*sums.traffic, *zero_sums.traffic),
        )


class _Known:
    """Sums over some clients of what they contribute beside canaries, by round."""

    def __init__(self) -> None:
        self._sums: dict[int, NDArray[np.float64]] = {}

    def add(self, number: int, own: NDArray[np.float64]) -> None:
        self._sums[number] = self._sums[number] + own if number in self._sums else own.copy()

    def rows(self, released: Sequence[ReleasedSum]) -> NDArray[np.float64]:
        """Shape (rounds, d); zero where none of them took part."""
        return np.stack([self._sums.get(each.round_number, np.zeros_like(each.values)) for each in released])


class _Kept:
    """Secure sums that keeps what is released."""

    def __init__(self, inner: SecureSums) -> None:
        self._inner = inner
        self.released: list[ReleasedSum] = []

    def secure_sum(self, request: SumRequest) -> ReleasedSum:
        """See :class:`~secure_fu.protocol.SecureSums`."""
        self.released.append(self._inner.secure_sum(request))
        return self.released[-1]


def _tasks(
    clients: Mapping[str, Records],
    holders: tuple[str, ...],
    holder: NDArray[np.int64],
    directions: CanaryDirections,
    inserted: NDArray[np.bool_],
    model: FlatModel,
    unit: Unit,
    known: Mapping[str, _Known],
) -> dict[str, dict[str, LocalTask]]:
    gradients = PerRecordGradients(model)
    stacked = StackedUpdates(model, clients) if unit is Unit.CLIENT else None
    inner: dict[str, LocalTask] = {
        name: training_task(Silo.of(name, records, model, gradients, keeps_history=False, stacked=stacked))
        for name, records in clients.items()
    }

    def clip_factors(norms: NDArray[np.float64], clip_norm: float) -> NDArray[np.float64]:
        return gradients.clip_factors(norms, clip_norm=clip_norm)

    position = {name: place for place, name in enumerate(holders)}
    tasks: dict[str, dict[str, LocalTask]] = {}
    for name in (*inner, *(other for other in holders if other not in inner)):
        held = np.flatnonzero(holder == position.get(name, -1))
        riding = CanaryTask(
            inner.get(name),
            directions=directions,
            held=held,
            inserted=inserted[held],
            clip_factors=None if unit is Unit.CLIENT else clip_factors,
            on_inner=known.get(name, known[""]).add if name in inner else None,
        )
        tasks[name] = {TRAIN: riding, ZERO: NoiseAlone()}
    return tasks


def _registered(
    plan: Plan,
    dimension: int,
    cohort: int,
    rounds: int,
    canaries: int,
    *,
    level: float,
    alarm: float,
    coins_digest: str,
) -> Registration:
    recipe = plan.recipe
    planned = PlannedRounds(
        count=rounds,
        retained_rate=recipe.sampling_rate,
        forgotten_rate=recipe.sampling_rate,
        noise_multiplier=recipe.noise_multiplier,
        clip_norm=recipe.clip_norm,
        saturation=recipe.saturation,
        length=dimension,
    )
    events = predicted_events([planned], Subject.RETAINED, plan=plan, cohort=cohort)
    assured = plan.minimum_cohort - plan.colluders
    return register_canaries(
        canaries=canaries,
        rounds=rounds,
        unit=recipe.unit,
        sampling_rate=recipe.sampling_rate,
        noise=recipe.noise_multiplier * float(np.sqrt(cohort / assured)),
        raw_length=RAW_LENGTH,
        claim=renyi_epsilon(dict(events), delta=plan.budget.delta),
        delta=plan.budget.delta,
        level=level,
        alarm=alarm,
        coins_digest=coins_digest,
    )


def _zero_request(recipe: Recipe, model: ReleasedModel) -> SumRequest:
    return recipe.request(purpose=ZERO, phase=Phase.TRAINING, model=model, forgotten_rate=recipe.sampling_rate)


def _claims(parties: TappedParties, place: Path, holders: tuple[str, ...], delta: float) -> tuple[float, float]:
    """What the ledger says of a canary's unit, and what the signed headers come to by another accountant."""
    claim = max(
        parties.ledger.epsilon(_CANARIES, name, Subject.RETAINED, Phase.TRAINING, delta=delta)
        for name in holders
        if name in parties.ledger
    )
    branches = verify_transcript(place / TRANSCRIPT, roster=parties.roster, policy=parties.policy)
    verify_against_ledger(branches, parties.ledger)
    events: dict[GaussianSumEvent, int] = {}
    for branch in branches:
        for release in branch.releases if branch.name == _CANARIES else ():
            charge = release.charges[Subject.RETAINED]
            if charge is not None:
                events[charge] = events.get(charge, 0) + 1
    return claim, pld_epsilon(events, delta=delta)


def _uploaded(tap: UploadTap, name: str, released: list[ReleasedSum]) -> NDArray[np.float64]:
    """What a client has uploaded in each round, scaled back; zero where it took no part."""
    rows = []
    for each in released:
        header, digest = tap.headers[each.round_number]
        values = tap.values.get((each.round_number, name))
        rows.append(np.zeros(header.length) if values is None else grid_of(header).decode(values, seed=digest))
    return np.stack(rows)
