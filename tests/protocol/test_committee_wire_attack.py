"""20 000 structure-aware mutations by an enrolled client: each a named error, cheap, and without a trace in the round.

Messages are signed by the client's true key wherever the server gets as far as the signature. What stays within a well
formed upload and cannot be told from outside, such as what is inside a sealed share, is put to the members instead.
"""

from __future__ import annotations

import resource
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from committee_machines import SMALL, CommitteeMachines, announcement_in, make_committee_machines
from upload_forge import Frame
from upload_mutations import MUTATIONS, Attacker

from secure_fu.crypto import SEAL_OVERHEAD_BYTES, seal
from secure_fu.crypto.sharing import FIELD_PRIME
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import SecureFUError, ShareMisfit
from secure_fu.protocol import Header
from secure_fu.protocol.committee.layout import layout_of
from secure_fu.protocol.committee.messages import ShareBinding
from secure_fu.protocol.messages import MAX_SHARE_BYTES, Domain, Upload

MESSAGES = 20_000
MOST_SECONDS = 0.050
MOST_BYTES = 64 << 20
SAMPLED = 20  # one message in so many is measured for memory
ATTACKER = "client-4"
# (coordinates, parameter set): the two smallest rings, one and two primes.
ROUNDS = ((6, "kahe-1024-25"), (100, "kahe-2048-48"))


@dataclass
class Costs:
    """What the messages cost at most."""

    seconds: float = 0.0
    peak: int = 0

    def refuses(self, call: Callable[[bytes], object], message: bytes, *, sampled: bool) -> SecureFUError:
        """Hand a message over; returns the error that it must raise, after its time and memory were looked at."""
        error, seconds = _timed(call, message)
        if seconds > MOST_SECONDS:  # another process may have been in the way: a message that is slow is slow twice
            error, seconds = _timed(call, message)
        self.seconds = max(self.seconds, seconds)
        if sampled:
            self.peak = max(self.peak, _peak(call, message))
        return error


def _timed(call: Callable[[bytes], object], message: bytes) -> tuple[SecureFUError, float]:
    start = time.thread_time()
    try:
        call(message)
    except SecureFUError as error:
        return error, time.thread_time() - start
    raise AssertionError(f"a message of {len(message)} bytes was accepted: {message[:64]!r}")


def _peak(call: Callable[[bytes], object], message: bytes) -> int:
    tracemalloc.start()
    try:
        _timed(call, message)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def resident_peak() -> int:
    """The most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def trace(machines: CommitteeMachines) -> tuple[object, ...]:
    """All that a server holds of a round's uploads."""
    state, shares = machines.server._state, machines.server._shares
    return (
        type(state),
        dict(state.entries),  # type: ignore[union-attr]
        state.total.count,  # type: ignore[union-attr]
        state.total._total.tobytes(),  # type: ignore[union-attr]
        dict(shares._places),
        shares._file.seek(0, 2),
    )


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[int], CommitteeMachines]]:
    made: list[CommitteeMachines] = []

    def machines(length: int) -> CommitteeMachines:
        made.append(
            make_committee_machines(
                tmp_path, length=length, contributions=lambda k: np.full(length, 0.1 * (k + 1) - 0.2)
            )
        )
        return made[-1]

    yield machines
    for each in made:
        each.close()


@dataclass
class Round:
    """An open round, in which nobody has uploaded; a round before it has warmed everything up."""

    machines: CommitteeMachines
    header: Header
    header_digest: bytes
    uploads: dict[str, bytes]
    attacker: Attacker

    @classmethod
    def open(cls, machines: CommitteeMachines) -> Round:
        old_invitation = machines.invited(0)
        old = machines.uploads(old_invitation)
        for upload in old.values():
            machines.server.receive(upload)
        machines.finish()
        invitation = machines.invited(1)
        announcement = announcement_in(invitation)
        header = decode(Header, announcement.header)
        uploads = machines.uploads(invitation)
        frames = {name: Frame.of(upload) for name, upload in uploads.items()}
        attacker = Attacker(
            frame=frames[ATTACKER],
            identity=machines.identities[ATTACKER],
            layout=layout_of(header),
            others=tuple(frame for name, frame in frames.items() if name != ATTACKER),
            old=Frame.of(old[ATTACKER]),
            strangers=(*machines.members, "server", "client-5", "client-44"),
            messages=(invitation, old_invitation, announcement.header, encode(announcement)),
        )
        return cls(machines, header, announcement.header_digest, uploads, attacker)

    def sums_up_exactly(self, *uploaded: str) -> None:
        """Everybody who has not uploaded does so now, the attacker honestly; the released sum is the true one."""
        for name, upload in self.uploads.items():
            if name not in uploaded:
                self.machines.server.receive(upload)
        released = self.machines.finish()
        assert released.participants == self.machines.names
        assert np.array_equal(
            released.values, self.machines.expected(self.machines.names, self.header, self.header_digest)
        )


def test_the_forge_writes_what_the_wire_format_reads(make: Callable[[int], CommitteeMachines]) -> None:
    """Or every mutation would be refused for the forge's own faults."""
    current = Round.open(make(6))
    for upload in current.uploads.values():
        frame = Frame.of(upload)
        assert frame.encode() == upload
        assert frame.statement() == decode(Upload, upload).statement
    current.machines.server.receive(current.attacker.send(current.attacker.frame))
    current.sums_up_exactly(ATTACKER)


@pytest.mark.parametrize(("length", "name"), ROUNDS)
def test_mutated_uploads_are_named_errors_cheap_and_without_a_trace(
    make: Callable[[int], CommitteeMachines], length: int, name: str
) -> None:
    current = Round.open(make(length))
    server = current.machines.server
    assert current.header.parameter_set == name
    rng, costs, kinds = Random(length), Costs(), Counter[str]()
    before, resident = trace(current.machines), resident_peak()
    messages = MESSAGES // len(ROUNDS)
    for number in range(messages):
        if number == messages // 2:  # from here on with some uploads in the sum
            for honest in ("client-0", "client-1"):
                server.receive(current.uploads[honest])
            before = trace(current.machines)
        mutation = MUTATIONS[number % len(MUTATIONS)]
        message = mutation(current.attacker, rng)
        error = costs.refuses(server.receive, message, sampled=number % SAMPLED == 0)
        kinds[type(error).__name__] += 1
        assert trace(current.machines) == before, f"{mutation.__name__} left a trace"
    current.sums_up_exactly("client-0", "client-1")
    assert costs.seconds < MOST_SECONDS
    assert costs.peak < MOST_BYTES
    assert resident_peak() - resident < MOST_BYTES
    # Every stage of the check was reached, not only the first.
    assert min(kinds[each] for each in ("WireError", "ProtocolError", "SignatureError", "CiphertextError")) > 400, kinds


def test_sealed_shares_of_another_size_are_refused(make: Callable[[int], CommitteeMachines]) -> None:
    """The size is the same for everybody: any other would fill the server's disk and fail at every member."""
    current = Round.open(make(6))
    degree = layout_of(current.header).parameter_set.degree
    right = SMALL.share_bytes(degree) + SEAL_OVERHEAD_BYTES
    assert {len(share) for share in current.attacker.frame.shares} == {right}
    rng, costs, before = Random(1), Costs(), trace(current.machines)
    sizes = [0, 1, 2, right - 2, right - 1, right + 1, right + 2, 2 * right, MAX_SHARE_BYTES - 1, MAX_SHARE_BYTES]
    for number, size in enumerate(sizes + [rng.randrange(MAX_SHARE_BYTES + 1) for _ in range(500)]):
        frame = current.attacker.frame
        for position in rng.sample(range(len(frame.shares)), rng.choice([1, 1, len(frame.shares)])):
            frame = frame.with_share(position, rng.randbytes(size if size != right else size + 1))
        costs.refuses(current.machines.server.receive, current.attacker.send(frame), sampled=number % SAMPLED == 0)
        assert trace(current.machines) == before
    assert costs.seconds < MOST_SECONDS
    assert costs.peak < MOST_BYTES
    current.sums_up_exactly()


def test_a_body_of_many_megabytes_costs_no_more_than_a_small_one(make: Callable[[int], CommitteeMachines]) -> None:
    """A ciphertext's length is known: it is compared before the bytes are copied or hashed."""
    current = Round.open(make(6))
    costs, before = Costs(), trace(current.machines)
    for mebibytes in (1, 16, 80):
        message = current.attacker.send(current.attacker.frame.with_body(bytes(mebibytes << 20)))
        costs.refuses(current.machines.server.receive, message, sampled=True)
        assert trace(current.machines) == before
    assert costs.seconds < MOST_SECONDS
    assert costs.peak < MOST_BYTES
    current.sums_up_exactly()


# What reaches a member of a client's bytes: its name, its digests, its signature, and the share sealed to that member.

Plain = Callable[[bytes, Random], bytes]


def _element(plain: bytes, rng: Random) -> bytes:
    position = 2 * rng.choice([0, 1, len(plain) // 2 - 1, rng.randrange(len(plain) // 2)])
    value = rng.choice([FIELD_PRIME, FIELD_PRIME + 1, 0xFFFF, rng.randrange(FIELD_PRIME, 1 << 16)])
    return plain[:position] + value.to_bytes(2, "little") + plain[position + 2 :]


PLAINTEXTS: dict[str, Plain] = {
    "an element that is not below p": _element,
    "all elements of ones": lambda plain, rng: b"\xff" * len(plain),
    "cut": lambda plain, rng: plain[: rng.randrange(len(plain))],
    "lengthened": lambda plain, rng: plain + bytes(rng.choice([1, 2, 1000, 60_000])),
    "empty": lambda plain, rng: b"",
    "twice": lambda plain, rng: plain * 2,
}

Box = Callable[[bytes, Random], bytes]
BOXES: dict[str, Box] = {
    "cut": lambda box, rng: box[: rng.randrange(len(box))],
    "lengthened": lambda box, rng: box + rng.randbytes(rng.randint(1, 50)),
    "one bit": lambda box, rng: _one_bit(box, rng),
    "no box": lambda box, rng: rng.choice([b"", rng.randbytes(rng.randint(1, MAX_SHARE_BYTES)), b"SFU\x01\x06upload"]),
    "small order": lambda box, rng: box[: -_inside(box)] + bytes(32) + box[32 - _inside(box) :],
    "four gigabytes": lambda box, rng: box.replace(
        (_inside(box) - 32 - 1088 - 4).to_bytes(4, "big"), rng.choice([b"\xff" * 4, b"\x80\0\0\0"]), 1
    ),
}


def _one_bit(box: bytes, rng: Random) -> bytes:
    position = rng.randrange(len(box))
    return box[:position] + bytes([box[position] ^ 1 << rng.randrange(8)]) + box[position + 1 :]


def _inside(box: bytes) -> int:
    """How many bytes of a box are behind its tag."""
    return len(box) - len(b"SFU\x01\x0asealed-box")


@dataclass
class Ballots:
    """Ballots that a server would make if it had taken the attacker's upload."""

    current: Round
    member: str = "member-02"

    @property
    def _position(self) -> int:
        return list(self.current.header.committee).index(self.member)

    def binding(self, *, header: bytes | None = None, client: str = ATTACKER, member: str | None = None) -> bytes:
        """What a share is sealed under; the true one by default."""
        return encode(
            ShareBinding(
                header_digest=self.current.header_digest if header is None else header,
                client=client,
                member=self.member if member is None else member,
            )
        )

    def sealed(self, plain: bytes, binding: bytes | None = None, *, to: str | None = None) -> bytes:
        """A box to the member."""
        party = self.current.machines.roster.party(self.member if to is None else to)
        return seal(party.sealing_key, plain, associated_data=self.binding() if binding is None else binding)

    def plain(self) -> bytes:
        """The attacker's honest share."""
        identity = self.current.machines.identities[self.member]
        box = self.current.attacker.frame.shares[self._position]
        return identity.unseal(box, associated_data=self.binding())

    def with_box(self, box: bytes) -> bytes:
        """A ballot over three clients, with this box for the attacker's share."""
        frame = self.current.attacker.frame.with_share(self._position, box)
        names = ("client-0", "client-2", ATTACKER)
        uploads = {name: self.current.uploads[name] for name in names[:2]} | {
            ATTACKER: self.current.attacker.send(frame)
        }
        return self.over(uploads)

    def honest(self) -> bytes:
        """A ballot over the same three clients, all honest."""
        return self.over({name: self.current.uploads[name] for name in ("client-0", "client-2", ATTACKER)})

    def over(self, uploads: dict[str, bytes]) -> bytes:
        """A ballot over these uploads, with the server's true signature."""
        machines = self.current.machines
        announcement = machines.server._state.announcement  # type: ignore[union-attr]
        roll = machines.roll_of(announcement, uploads)
        return machines.ballot_of(announcement, roll, uploads, self.member)


def bad_boxes(ballots: Ballots, rng: Random, count: int) -> Iterator[bytes]:
    """Boxes that do not hold a share of the right form, or are bound to something else."""
    plain = ballots.plain()
    current = ballots.current
    good = current.attacker.frame.shares[ballots._position]
    bound_elsewhere = [
        ballots.binding(header=current.attacker.old.header_digest),
        ballots.binding(client="client-0"),
        ballots.binding(member="member-00"),
        b"",
        b"\0" + ballots.binding(),
    ]
    others = [current.attacker.others[0].shares[ballots._position], current.attacker.old.shares[ballots._position]]
    others += [current.attacker.frame.shares[0], ballots.sealed(plain, to="member-00")]
    for number in range(count):
        kind = number % 4
        if kind == 0:
            yield ballots.sealed(rng.choice(list(PLAINTEXTS.values()))(plain, rng))
        elif kind == 1:
            yield rng.choice(list(BOXES.values()))(good, rng)
        elif kind == 2:
            yield ballots.sealed(plain, rng.choice(bound_elsewhere))
        else:
            yield rng.choice(others)


@pytest.mark.parametrize("length", [length for length, _ in ROUNDS])
def test_sealed_shares_that_do_not_fit_are_named_cheap_and_bind_nobody(
    make: Callable[[int], CommitteeMachines], length: int
) -> None:
    current = Round.open(make(length))
    ballots, rng, costs = Ballots(current), Random(length), Costs()
    member = current.machines.members[ballots.member]
    bound = current.machines.member_record.newest(member.name, current.header.run_id)
    for number, box in enumerate(bad_boxes(ballots, rng, 1000)):
        error = costs.refuses(member.vote, ballots.with_box(box), sampled=number % SAMPLED == 0)
        assert isinstance(error, ShareMisfit)
        assert f"{ATTACKER!r} to member {ballots.member!r}" in str(error)
    assert current.machines.member_record.newest(member.name, current.header.run_id) == bound
    assert costs.seconds < MOST_SECONDS
    assert costs.peak < MOST_BYTES
    current.sums_up_exactly()


def test_other_bytes_of_a_client_in_a_ballot_are_refused_before_its_share_is_opened(
    make: Callable[[int], CommitteeMachines], monkeypatch: pytest.MonkeyPatch
) -> None:
    current = Round.open(make(6))
    ballots, rng, costs = Ballots(current), Random(3), Costs()
    member = current.machines.members[ballots.member]
    frame, identity = current.attacker.frame, current.attacker.identity
    honest = {name: current.uploads[name] for name in ("client-0", "client-2")}
    with monkeypatch.context() as unopened:
        unopened.setattr(type(identity), "unseal", lambda *a, **k: pytest.fail("a share was opened"))
        for number in range(400):
            forged = rng.choice(
                [
                    replace(frame, ciphertext_digest=rng.randbytes(32)),
                    replace(frame, shares=(*frame.shares[:-1], rng.randbytes(9))),
                    replace(frame, signature=rng.randbytes(64)),
                    replace(frame, header_digest=current.attacker.old.header_digest).signed(identity),
                    frame.signed(identity, rng.choice([domain for domain in Domain if domain != Domain.UPLOAD])),
                    frame.signed(current.machines.identities["client-0"]),
                    current.attacker.old,
                ]
            )
            message = ballots.over(honest | {ATTACKER: forged.encode()})
            costs.refuses(member.vote, message, sampled=number % SAMPLED == 0)
    assert costs.seconds < MOST_SECONDS
    current.sums_up_exactly()


def test_mangled_ballots_bind_nobody(make: Callable[[int], CommitteeMachines]) -> None:
    """Counts that claim more than there is, in every nested part, and bytes changed anywhere."""
    current = Round.open(make(6))
    ballots, rng, costs = Ballots(current), Random(4), Costs()
    member = current.machines.members[ballots.member]
    good = ballots.honest()
    three = (3).to_bytes(4, "big")
    counts = [at for at in range(len(good)) if good.startswith(three, at)]
    assert len(counts) >= 2  # the entries of the roll, and the deliveries
    for number in range(2000):
        if number % 2:
            at = rng.choice(counts)
            claim = rng.choice([0, 2, 4, 1024, 1025, 10**6, 10**6 + 1, 2**31, 2**32 - 1])
            message = good[:at] + claim.to_bytes(4, "big") + good[at + 4 :]
        else:
            at = rng.randrange(len(good))
            message = rng.choice([good[:at], _one_bit(good, rng), good[:at] + rng.randbytes(4) + good[at:]])
        costs.refuses(member.vote, message, sampled=number % SAMPLED == 0)
    assert costs.seconds < MOST_SECONDS
    assert costs.peak < MOST_BYTES
    current.sums_up_exactly()
