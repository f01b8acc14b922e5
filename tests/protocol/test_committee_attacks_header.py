"""A malicious server against `kahe`: headers of its own making, field by field, to clients and to members."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import numpy as np
import pytest
from committee_attacker import (
    CLIENTS_BELIEVED,
    MINIMUM_IGNORED,
    Attacker,
    attempt,
    bind_seals_to,
    contributions,
    made_upload,
    noise_in,
    stands_and_falls,
    without_pin,
)

from secure_fu.crypto import CommitteeTerms
from secure_fu.crypto.kahe import ClientKey, open_sum
from secure_fu.crypto.sharing import recover_key
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import CapacityError, PolicyRefusal, ProtocolError, SecureFUError, SignatureError, TranscriptError
from secure_fu.protocol import Client, Header
from secure_fu.protocol.header import grid_of
from secure_fu.protocol.messages import Invitation, Upload
from secure_fu.protocol.verification import verify_transcript

TERMS = CommitteeTerms(members=4, threshold=3, quorum=4, corrupt=1)
NAMES = tuple(f"client-{number}" for number in range(5))


def without_capacity(monkeypatch):
    monkeypatch.setattr("secure_fu.protocol.committee.layout.largest_sum_of", lambda *_: 0)


def without_model_check(monkeypatch):
    monkeypatch.setattr(Client, "_checked_model", staticmethod(lambda _, header: np.zeros(header.length, np.float32)))


def without_settings_check(monkeypatch):
    monkeypatch.setattr("secure_fu.protocol.client.parse_settings", lambda _: {})


def without_cohort_check(monkeypatch):
    monkeypatch.setattr(Client, "_checked_header", lambda _, message: decode(Header, message.announcement.header))


@dataclass(frozen=True, kw_only=True)
class Forgery:
    """A header that no honest server makes of this federation.

    Attributes:
        field: the one that it is about.
        changes: to the honest header.
        error, match: what it is refused with; the name of the field unless given.
        without: takes the defence out; the policy's pin of the field unless given.
        still: what stops it even so, by party; nothing does, for the most.
    """

    field: str
    changes: dict[str, object]
    error: type[SecureFUError] = PolicyRefusal
    match: str | None = None
    without: Callable[[pytest.MonkeyPatch], None] | None = None
    still: dict[str, type[Exception]] = field(default_factory=dict)


def _forgery(name, value, **rest) -> Forgery:
    return Forgery(field=name, changes={name: value} | rest.pop("also", {}), **rest)


EVERYBODY = [
    # Such a number no record can hold, so that it is an error even where nobody checks it.
    _forgery("round_number", 1 << 63, still={"client": OverflowError, "member": OverflowError}),
    # No party of this federation knows what to do with these, pinned or not.
    _forgery("purpose", "statistic/other", still={"client": PolicyRefusal}),
    _forgery("phase", "other", still={"client": ProtocolError}),
    _forgery("length", 0, also={"grid_step": 1.0}, still={"client": PolicyRefusal, "member": PolicyRefusal}),
    _forgery("parameter_set", "kahe-2048-48"),
    _forgery("grid", "coarse"),
    _forgery("grid_step", 1.0),
    _forgery("saturation", 2.25, also={"digit_bits": 15}),
    _forgery("saturation", 0.5),
    _forgery("clip_norm", 1.25),
    _forgery("unit", "client"),
    _forgery("noise_multiplier", 1.65),
    _forgery("retained_rate", 0.75),
    _forgery("forgotten_rate", 0.75),
    _forgery("roster_digest", bytes(32)),
    _forgery("cohort", (NAMES[1], NAMES[0], *NAMES[2:])),
    _forgery("cohort", (NAMES[0], *NAMES[:4])),
    _forgery("cohort", ("another", *NAMES)),
    _forgery("cohort", (*NAMES, "member-03")),
    _forgery("cohort", (*NAMES, "server")),
    # The roll is too short even then.
    _forgery("cohort", NAMES[:3], still={"member": PolicyRefusal}),
    _forgery("colluders", 0),
    _forgery("minimum_cohort", 3),
    _forgery("committee", ("client-4", "member-01", "member-02", "member-03")),
    _forgery("threshold", 2),
    _forgery("quorum", 3),
    _forgery("corrupt", 0),
]

CLIENTS = [
    _forgery("digit_bits", 13, error=CapacityError, match="digits of 13 bits", without=without_capacity),
    _forgery("length", 5, error=ProtocolError, match="the model has", without=without_model_check),
    _forgery("model_digest", bytes(32), error=ProtocolError, match="not the one", without=without_model_check),
    _forgery("settings", '{"b": 1}', error=ProtocolError, without=without_settings_check),
    _forgery("cohort", (*NAMES[1:], "client-5"), match="not in the cohort", without=without_cohort_check),
]

MEMBERS = [
    _forgery("digit_bits", 13, error=CapacityError, match="digits of 13 bits", without=without_capacity),
]

OPEN = {
    "run_id": {"run_id": b"another run's id"},
    "round_number": {"round_number": 7},
    "previous_transcript": {"previous_transcript": b"\1" * 32},
    "digit_bits": {"digit_bits": 15},
    "phase": {"phase": "unlearning"},
    "settings": {"settings": '{"b":1}'},
    "cohort": {"cohort": (*NAMES, "client-5")},
    "colluders": {"colluders": 2},
    "minimum_cohort": {"minimum_cohort": 5},
    "noise_multiplier": {"noise_multiplier": 1.75},
    "clip_norm": {"clip_norm": 0.5},
    "saturation": {"saturation": 1.0},
    "retained_rate": {"retained_rate": 0.25},
    "forgotten_rate": {"forgotten_rate": 0.25},
}
"""What a server may choose: no less private than the policy, or of no meaning to privacy."""


@pytest.fixture
def machines(federate):
    """A federation with a round open, of parties that allow one parameter set only."""
    machines = federate(contributions=contributions, clients=6, terms=TERMS, minimum=4, noise_multiplier=1.7)
    machines.policy = replace(machines.policy, parameter_sets=frozenset({"kahe-1024-25"}))
    machines.invited(5, NAMES)
    return machines


def consistent(machines, changes):
    """The changes, with digits that hold most sums, and the grid step that goes with them."""
    changes = {"digit_bits": 15} | changes
    if "grid_step" in changes:
        return changes
    header = replace(machines.server._state.header, **changes)
    return changes | {"grid_step": grid_of(header).step}


def identify(forgery):
    return ", ".join(f"{name} {value!r}"[:40] for name, value in forgery.changes.items())


def expect(forgery, party, defended):
    """What a party refuses it with, if at all."""
    if defended:
        return forgery.error, forgery.match or forgery.field
    return forgery.still.get(party), None


@stands_and_falls
@pytest.mark.parametrize("forgery", EVERYBODY + CLIENTS, ids=identify)
def test_a_client_refuses_a_header_that_its_policy_forbids(machines, monkeypatch, defended, forgery):
    """The server signs a header with one field of its own choosing, for less noise or another committee."""
    invitation = machines.forged_invitation(**consistent(machines, forgery.changes))
    client = machines.client("client-0")
    if not defended:
        (forgery.without or without_pin(forgery.field))(monkeypatch)
    streams = len(machines.tape.streams)
    refused, match = expect(forgery, "client", defended)
    if forgery.field == "length" and forgery.changes["length"]:
        machines.tasks["client-0"].contribution_given = np.zeros(forgery.changes["length"])
    upload = attempt(lambda: client.respond(invitation), refused=refused, match=match)
    assert (upload is None) is (refused is not None)
    if defended:
        assert len(machines.tape.streams) == streams, "nothing was drawn"
        assert machines.client_record.rounds("client-0") == 0


def ballot(machines, announcement, member):
    """A ballot under any header, with uploads that all clients have truly signed: lax ones, or out of their minds."""
    names = sorted({*decode(Header, announcement.header).cohort} & {*NAMES})
    uploads = {name: made_upload(machines, announcement, name, machines.identities[name]) for name in names}
    return machines.ballot_of(announcement, machines.roll_of(announcement, uploads), uploads, member)


@stands_and_falls
@pytest.mark.parametrize("forgery", EVERYBODY + MEMBERS, ids=identify)
def test_a_member_refuses_a_header_that_its_policy_forbids(machines, monkeypatch, defended, forgery):
    """As above, to a member, with uploads under that header that all clients have truly signed."""
    announcement = machines.forged_announcement(**consistent(machines, forgery.changes))
    if not defended:
        (forgery.without or without_pin(forgery.field))(monkeypatch)
    member = machines.member("member-01")
    asked = ballot(machines, announcement, "member-01")
    refused, match = expect(forgery, "member", defended)
    vote = attempt(lambda: member.vote(asked), refused=refused, match=match)
    assert (vote is None) is (refused is not None)
    bound = machines.member_record.newest("member-01", decode(Header, announcement.header).run_id)
    assert (bound is None) is (refused is not None)


def test_no_field_of_the_header_was_forgotten():
    """Somebody adds a field to the header and no party checks it: it has to come into one of the lists first."""
    every = {one.name for one in fields(Header)}
    assert every == {forgery.field for forgery in EVERYBODY + CLIENTS + MEMBERS} | {*OPEN}
    # What members let pass, clients refuse, but for these, which are the server's to choose.
    refused_by_some = {forgery.field for forgery in EVERYBODY + CLIENTS}
    assert every - refused_by_some == {"run_id", "previous_transcript"}
    assert {forgery.field for forgery in CLIENTS} - {forgery.field for forgery in EVERYBODY} == {
        "digit_bits",
        "model_digest",
        "settings",
    }


@pytest.mark.parametrize("changes", OPEN.values(), ids=OPEN)
def test_what_the_server_may_choose_opens_as_it_should(machines, changes):
    """The server chooses what it may, and gains nothing: the round opens as any other, for at least the policy's noise.

    What it costs is in the client's own ledger (test_committee_attacks_budget.py).
    """
    attacker = Attacker.tapping(machines, machines.forged_invitation(**consistent(machines, changes)), NAMES)
    for name in attacker.honest:
        machines.members[name] = machines.member(name)
    read = attacker.opened(attacker.uploads, dict.fromkeys(NAMES, 1))
    assert np.array_equal(read, attacker.sum_of(*NAMES))
    assert machines.client_record.rounds("client-0") == 1


@stands_and_falls
@pytest.mark.parametrize("name", OPEN)
def test_uploads_to_one_header_are_not_in_a_roll_of_another(machines, monkeypatch, defended, name):
    """The server shows clients one header and members another, both within the policy, that differ in one field.

    Signature and seal each name the header; here both are taken out.
    """
    if not defended:
        monkeypatch.setattr(*CLIENTS_BELIEVED)
        bind_seals_to(monkeypatch, header_digest=bytes(32))
    shown = Attacker.tapping(machines, machines.forged_invitation(settings='{"a":1}'), NAMES)
    other = machines.forged_announcement(**consistent(machines, {"settings": '{"a":1}'} | OPEN[name]))
    told = Attacker(machines, other, shown.uploads, shown.truth)
    ballots = told.ballots(told.roll(told.uploads), told.uploads)
    vote = attempt(
        lambda: machines.member("member-01").vote(ballots("member-01")),
        refused=SignatureError if defended else None,
        match="signature of 'client-0'",
    )
    assert (vote is None) is defended


NUMBERS = {
    "Annotated[int, U32]": [0, 1, 2**31, 2**32 - 1],
    "Annotated[float, F64]": [-1.0, 0.0, 5e-324, 1e-300, 1e300, 1.7e308],
}
EXTREMES = [(one.name, value) for one in fields(Header) for value in NUMBERS.get(str(one.type), [])]


@pytest.mark.parametrize(("name", "value"), EXTREMES)
def test_extreme_numbers_are_taken_or_refused_like_others(machines, name, value):
    """The server names numbers that make something overflow, so that a client falls over instead of refusing."""
    changes = {name: value}
    # There may be no grid, and then the step stays as it is.
    with contextlib.suppress(SecureFUError, OverflowError):
        changes = consistent(machines, changes)
    with contextlib.suppress(SecureFUError):
        upload = machines.client("client-0").respond(machines.forged_invitation(**changes))
        assert decode(Upload, upload).client == "client-0"


class SaysWhichModel:
    """A client's code whose contribution depends on the model as training's does: zero where its gradient vanishes."""

    def __init__(self, contribution):
        self.contribution_given = self._true = contribution

    def contribution(self, model, terms, stream):
        self.contribution_given = self._true * (model[0] == 0.0)
        return self.contribution_given


@stands_and_falls
def test_clients_do_not_get_different_models_under_one_header(federate, monkeypatch, defended):
    """All but two clients get a model whose gradients vanish: the sum is that of the two, below the minimum cohort.

    Pasquini, Francati, Ateniese, CCS 2022.
    """
    machines = federate(contributions=contributions)
    for name in NAMES:
        machines.tasks[name] = SaysWhichModel(np.asarray(machines.tasks[name].contribution_given))
        machines.clients[name] = machines.client(name)
    invitation = machines.invited(0)
    dead = encode(replace(decode(Invitation, invitation), model=np.ones(machines.length, dtype="<f4").tobytes()))
    alone, others = NAMES[:2], NAMES[2:]
    if not defended:
        monkeypatch.setattr(
            Client, "_checked_model", staticmethod(lambda message, _: np.frombuffer(message.model, dtype="<f4"))
        )
    attacker = Attacker.tapping(machines, invitation, alone)

    def merged():
        rest = Attacker.tapping(machines, dead, others)
        return Attacker(machines, attacker.announcement, attacker.uploads | rest.uploads, attacker.truth | rest.truth)

    both = attempt(merged, refused=ProtocolError if defended else None, match="not the one that the header names")
    if both is not None:
        read = both.opened(both.uploads, dict.fromkeys(NAMES, 1))
        of_two = np.sum([contributions(0), contributions(1)], axis=0)
        noise = np.sum([noise_in(machines, name, both.announcement) for name in NAMES], axis=0)
        step = both.header.grid_step
        assert np.abs((read - noise) * step - of_two).max() <= 2 * step


@stands_and_falls
@pytest.mark.parametrize("how", ["together", "each alone"])
def test_two_headers_of_one_round_are_not_opened(federate, monkeypatch, defended, how):
    """Two groups of clients get two headers of one round, each with another model: neither group is opened.

    Together they are enough, but signed and sealed for different headers; each alone is below the minimum cohort.
    """
    machines = federate(contributions=contributions, minimum=4)
    if not defended and how == "together":
        monkeypatch.setattr(*CLIENTS_BELIEVED)
        bind_seals_to(monkeypatch, header_digest=bytes(32))
        seed = "secure_fu.protocol.committee.encryption.ClientKey.encrypt"
        true = ClientKey.encrypt
        monkeypatch.setattr(seed, lambda self, values, *, seed: true(self, values, seed=bytes(32)))
    if not defended and how == "each alone":
        monkeypatch.setattr(*MINIMUM_IGNORED)
    first = Attacker.tapping(machines, machines.invited(0), NAMES[:3])
    second = Attacker.tapping(machines, machines.forged_invitation(settings='{"model":2}'), NAMES[3:])
    if how == "each alone":
        read = attempt(
            lambda: second.opened(second.uploads, dict.fromkeys(second.uploads, 1)),
            refused=PolicyRefusal if defended else None,
            match="opens with at least 4",
        )
        assert defended or np.array_equal(read, second.sum_of(*second.uploads))
        return
    all_of_them = Attacker(machines, first.announcement, first.uploads | second.uploads, first.truth | second.truth)

    def opened():
        roll = all_of_them.roll(all_of_them.uploads)
        votes = all_of_them.votes(roll, all_of_them.ballots(roll, all_of_them.uploads))
        told = all_of_them.answers(roll, votes)
        if not told:
            raise all_of_them.refusals[0]
        layout, total = all_of_them.layout, all_of_them.total_of(all_of_them.uploads)
        return recover_key(
            {list(all_of_them.header.committee).index(name): share for name, share in told.items()},
            machines.policy.terms,
            length=layout.parameter_set.degree,
            bound=layout.key_bound(5),
            accept=lambda key: open_sum(layout, total, key, seed=bytes(32), uploads=5),
        ).value

    read = attempt(opened, refused=SignatureError if defended else None, match="signature of 'client-3'")
    assert defended or np.array_equal(read, all_of_them.sum_of(*NAMES))


def test_a_forged_past_shows_in_the_transcript(federate):
    """The server names another past in a header, to take releases out of the record: the auditor sees it."""
    machines = federate()
    machines.collected(0)
    machines.finish()
    path = machines.directory / "transcript.jsonl"
    verify_transcript(path, roster=machines.roster, policy=machines.policy)
    machines.run.transcript._head = bytes(32)
    machines.collected(1)
    machines.finish()
    with pytest.raises(TranscriptError, match="line 2"):
        verify_transcript(path, roster=machines.roster, policy=machines.policy)
