"""What a malicious client can try against server, members and other clients: it can spoil a sum, and learns nothing.

The attacker is enrolled, in the cohort, and signs with its true key. What is malformed the server refuses
(test_committee_wire_attack.py has that at scale). What cannot be seen from outside costs at most the round: the sum is
not released, or it is released with a contribution of the attacker's choice, as its own data could have made it. With
scheme bfv a forged ciphertext could give away the opening key; the key-holder's check of the range refuses it before
anything is told (tests/crypto/test_bfv.py has the attack).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from committee_machines import (
    SMALL,
    CommitteeMachines,
    announcement_in,
    entry_of,
    make_committee_machines,
)
from machines import SERVER
from numpy.typing import NDArray

from secure_fu.crypto import Role, SecureStream, seal
from secure_fu.crypto.kahe import CiphertextSum, ClientKey, Layout, cipher, open_sum
from secure_fu.crypto.kahe._ntt import ring_tables, times_key, transform_key
from secure_fu.crypto.kahe._packing import pack_block
from secure_fu.crypto.kahe._planes import to_wire
from secure_fu.crypto.sharing import FIELD_PRIME, encode_share, share_key
from secure_fu.crypto.wire import decode, encode
from secure_fu.discrete_gaussian import sample_discrete_gaussian
from secure_fu.errors import (
    CapacityError,
    CiphertextError,
    CryptoError,
    OpeningError,
    ProtocolError,
    RosterError,
    RoundAborted,
    ShareMisfit,
    SignatureError,
)
from secure_fu.protocol import Header
from secure_fu.protocol.committee.layout import layout_of
from secure_fu.protocol.committee.messages import ShareBinding
from secure_fu.protocol.header import grid_of, noise_share_of
from secure_fu.protocol.messages import Announcement, Domain, Upload, digest

ATTACKER = "client-4"
VICTIM = "client-0"
LENGTH = 100  # two digits a coefficient

Integers = NDArray[np.int64]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[CommitteeMachines]:
    made = make_committee_machines(
        tmp_path, length=LENGTH, contributions=lambda number: np.linspace(-0.1, 0.1, LENGTH) * number
    )
    yield made
    made.close()


class Attacked:
    """An open round in which everybody but the attacker has uploaded; it may do as it likes."""

    def __init__(self, machines: CommitteeMachines, number: int = 0) -> None:
        self.machines = machines
        self.invitation = machines.invited(number)
        self.announcement: Announcement = announcement_in(self.invitation)
        self.header_digest = self.announcement.header_digest
        self.header = decode(Header, self.announcement.header)
        self.layout: Layout = layout_of(self.header)
        uploads = machines.uploads(self.invitation)
        self.honest = {name: decode(Upload, upload) for name, upload in uploads.items()}
        self.own = self.honest.pop(ATTACKER)
        for upload in self.honest.values():
            machines.server.receive(encode(upload))

    def signed(self, upload: Upload, by: str = ATTACKER) -> bytes:
        """The upload under somebody's true signature."""
        return encode(replace(upload, signature=self.machines.identities[by].sign(Domain.UPLOAD, upload.statement)))

    def sends(self, upload: Upload) -> None:
        """The attacker's upload, well formed and under its signature: the server takes it."""
        self.machines.server.receive(self.signed(upload))

    def sealed(self, shares: NDArray[np.uint16], *, header_digest: bytes | None = None) -> tuple[bytes, ...]:
        """Shares sealed to all members as an honest client does it."""
        bound = self.header_digest if header_digest is None else header_digest
        return tuple(
            seal(
                self.machines.roster.party(member).sealing_key,
                encode_share(share),
                associated_data=encode(ShareBinding(header_digest=bound, client=ATTACKER, member=member)),
            )
            for member, share in zip(self.header.committee, shares, strict=True)
        )

    def encrypted(self, packed: Callable[[Layout], tuple[Integers, Integers]]) -> Upload:
        """An upload of digits and errors of the attacker's choice, under a key that it shares as it should."""
        digits, errors = packed(self.layout)
        key = ClientKey.generate(self.layout).coefficients
        shares = share_key(key, SMALL, stream=SecureStream())
        body = raw_ciphertext(self.layout, key, digits, errors, seed=self.header_digest)
        return replace(self.own, body=body, ciphertext_digest=digest(body), shares=self.sealed(shares))

    def honest_sum(self) -> Integers:
        """Of all but the attacker, in steps of the grid."""
        grid, tape = grid_of(self.header), self.machines.tape
        total = np.zeros(grid.encoded_dimension, dtype=np.int64)
        for name in self.honest:
            total += tape.last(f"noise/{name}").replayed(noise_share_of(self.header), grid.encoded_dimension)
            total += grid.encode(
                np.asarray(self.machines.tasks[name].contribution_given),
                seed=self.header_digest,
                stream=tape.last(f"rounding/{name}"),
            )
        return total

    def released_integers(self) -> Integers:
        """What the round releases, in steps of the grid."""
        return np.rint(self.machines.finish().values / self.header.grid_step).astype(np.int64)


def raw_ciphertext(layout: Layout, key: Integers, digits: Integers, errors: Integers, *, seed: bytes) -> bytes:
    """a s + T e + m without any of the checks of an honest client; ``digits`` may be of any size below 2^31."""
    assert layout.blocks == 1
    tables = ring_tables(layout.parameter_set)
    publics = cipher.expand(layout.parameter_set, seed, 1)
    masks = np.empty(publics.shape[1:], dtype=np.uint32)
    times_key(publics[0], transform_key(key, tables), tables, masks)
    residues = np.empty(layout.residues, dtype=np.uint32)
    values = digits.copy()
    values.flags.writeable = False
    pack_block(layout, 0, values, errors, masks, residues)
    return to_wire(layout, residues)


def fresh_errors(layout: Layout) -> Integers:
    return sample_discrete_gaussian(cipher.SIGMA_SQUARED, layout.coefficients, stream=SecureStream())


def the_next_round_is_as_ever(machines: CommitteeMachines, number: int = 1) -> None:
    """Without the attacker, whom the members named or the operator found."""
    honest = [name for name in machines.names if name != ATTACKER]
    invitation = machines.collected(number, honest)
    announcement = announcement_in(invitation)
    released = machines.finish()
    expected = machines.expected(honest, decode(Header, announcement.header), announcement.header_digest)
    assert np.array_equal(released.values, expected)


# Somebody else's name, another round, what is not a ciphertext: refused at the door.


def test_nobody_uploads_in_anothers_name(machines: CommitteeMachines) -> None:
    attacked = Attacked(machines)
    before = dict(machines.server._state.entries)  # type: ignore[union-attr]
    with pytest.raises(ProtocolError, match="already"):
        machines.server.receive(attacked.signed(replace(attacked.own, client=VICTIM)))
    for stranger in ("member-00", SERVER, "nobody", "client-5"):
        with pytest.raises(ProtocolError, match="not in the cohort"):
            machines.server.receive(attacked.signed(replace(attacked.own, client=stranger)))
    assert machines.server._state.entries == before  # type: ignore[union-attr]
    attacked.sends(attacked.own)
    with pytest.raises(ProtocolError, match="already"):
        attacked.sends(attacked.own)
    assert machines.finish().participants == machines.names


def test_a_signature_of_the_attacker_is_not_the_victims(machines: CommitteeMachines) -> None:
    invitation = machines.invited(0)
    uploads = {name: decode(Upload, upload) for name, upload in machines.uploads(invitation).items()}
    key = machines.identities[ATTACKER]
    forged = replace(uploads[ATTACKER], client=VICTIM)
    for signature in (key.sign(Domain.UPLOAD, forged.statement), uploads[VICTIM].signature):
        with pytest.raises(SignatureError):
            machines.server.receive(encode(replace(forged, signature=signature)))
    with pytest.raises(RosterError):
        machines.roster.verify("member-00", Role.CLIENT, Domain.UPLOAD, b"", bytes(64))
    for upload in uploads.values():
        machines.server.receive(encode(upload))
    assert machines.finish().participants == machines.names


def test_an_upload_to_another_header_is_refused(machines: CommitteeMachines) -> None:
    old = Attacked(machines)
    machines.server.abort("again")
    attacked = Attacked(machines, 1)
    with pytest.raises(ProtocolError, match="another round"):
        machines.server.receive(encode(old.own))
    with pytest.raises(SignatureError):
        machines.server.receive(encode(replace(old.own, header_digest=attacked.header_digest)))
    attacked.sends(attacked.own)
    machines.finish()


def test_a_body_that_is_no_ciphertext_is_refused(machines: CommitteeMachines) -> None:
    attacked = Attacked(machines)
    body = attacked.own.body
    for bad in (body[:-1], body + b"\0", body * 2, b"", b"\xff" * len(body)):
        with pytest.raises(CryptoError):
            attacked.sends(replace(attacked.own, body=bad, ciphertext_digest=digest(bad)))
    with pytest.raises(CiphertextError, match="shares"):
        attacked.sends(replace(attacked.own, shares=attacked.own.shares[:-1]))
    attacked.sends(attacked.own)
    assert machines.finish().participants == machines.names


# What no server can see: the members find it, and the round goes on or ends.


def test_a_share_that_does_not_fit_costs_one_members_vote(machines: CommitteeMachines) -> None:
    attacked = Attacked(machines)
    boxes = attacked.own.shares
    attacked.sends(replace(attacked.own, shares=(*boxes[:1], boxes[1][:-1] + b"\0", *boxes[2:])))
    machines.server.close()
    with pytest.raises(ShareMisfit, match="'client-4' to member 'member-01'"):
        machines.members["member-01"].vote(machines.server.ballot("member-01"))
    others = [name for name in machines.members if name != "member-01"]
    for name in others:
        machines.server.receive_vote(machines.members[name].vote(machines.server.ballot(name)))
    released = machines.answered(machines.server.quorum(), others)
    assert np.array_equal(released.values, machines.expected(machines.names, attacked.header, attacked.header_digest))


def test_shares_that_fit_nobody_end_the_round_and_not_the_next(machines: CommitteeMachines) -> None:
    attacked = Attacked(machines)
    short = attacked.sealed(np.zeros((SMALL.members, 3), dtype=np.uint16))
    wrong = [box + bytes(len(own) - len(box)) for box, own in zip(short, attacked.own.shares, strict=True)]
    attacked.sends(replace(attacked.own, shares=(*wrong[:2], *attacked.own.shares[2:])))
    machines.server.close()
    for name in machines.members:
        try:
            machines.server.receive_vote(machines.members[name].vote(machines.server.ballot(name)))
        except ShareMisfit as error:
            assert "'client-4'" in str(error)  # noqa: PT017 - two of four raise
    with pytest.raises(RoundAborted, match="2 members voted"):
        machines.server.quorum()
    machines.server.forfeit()
    the_next_round_is_as_ever(machines)


@pytest.mark.parametrize("wrong", [1, 2, 4])
def test_shares_on_no_polynomial_are_left_out_or_end_the_round(
    machines: CommitteeMachines, wrong: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Well formed, and not of the key. One of four answers more than t can be wrong; with more, nothing opens."""
    attacked = Attacked(machines)
    shares = np.stack(
        [machines.opened_share(attacked.announcement, ATTACKER, box, name) for name, box in
         zip(attacked.header.committee, attacked.own.shares, strict=True)]
    ).astype(np.int64)  # fmt: skip
    noise = np.random.default_rng(wrong).integers(1, FIELD_PRIME, (wrong, shares.shape[1]))
    shares[:wrong] = (shares[:wrong] + noise) % FIELD_PRIME
    attacked.sends(replace(attacked.own, shares=attacked.sealed(shares.astype(np.uint16))))
    if wrong == 1:
        released = machines.finish()
        assert np.array_equal(
            released.values, machines.expected(machines.names, attacked.header, attacked.header_digest)
        )
        assert "member-00 does not fit; it, or a client's share to it" in caplog.text
        return
    with pytest.raises(OpeningError):
        machines.finish()
    machines.server.forfeit()
    the_next_round_is_as_ever(machines)


def test_shares_of_another_key_end_the_round(machines: CommitteeMachines) -> None:
    attacked = Attacked(machines)
    other = ClientKey.generate(attacked.layout).coefficients
    attacked.sends(replace(attacked.own, shares=attacked.sealed(share_key(other, SMALL, stream=SecureStream()))))
    with pytest.raises(OpeningError):
        machines.finish()
    assert machines.run.transcript.head == bytes(32)
    machines.server.forfeit()
    the_next_round_is_as_ever(machines)


def test_an_upload_made_for_another_round_and_signed_for_this_one_opens_nowhere(machines: CommitteeMachines) -> None:
    old = Attacked(machines)
    machines.server.abort("again")
    attacked = Attacked(machines, 1)
    attacked.sends(replace(old.own, header_digest=attacked.header_digest))
    machines.server.close()
    for name in machines.members:  # shares are bound to the header
        with pytest.raises(ShareMisfit):
            machines.members[name].vote(machines.server.ballot(name))
    machines.server.forfeit()
    third = Attacked(machines, 2)
    key = ClientKey.generate(third.layout)
    stale = replace(
        third.own,
        body=(body := key.encrypt(np.zeros(LENGTH, dtype=np.int64), seed=old.header_digest)),
        ciphertext_digest=digest(body),
        shares=third.sealed(share_key(key.coefficients, SMALL, stream=SecureStream())),
    )
    third.sends(stale)  # and so is the ciphertext: its ring element is another
    with pytest.raises(OpeningError):
        machines.finish()


def test_a_copy_of_anothers_upload_under_an_own_name_is_not_opened(machines: CommitteeMachines) -> None:
    """Or the attacker could have a victim counted twice, and read it off the sum."""
    attacked = Attacked(machines)
    attacked.sends(replace(attacked.honest[VICTIM], client=ATTACKER))
    machines.server.close()
    roll = machines.server._state.roll  # type: ignore[union-attr]
    assert entry_of(attacked.honest[VICTIM], ATTACKER).shares_digest in {
        entry.shares_digest for entry in roll.entries if entry.client == ATTACKER
    }
    for name in machines.members:
        with pytest.raises(ShareMisfit, match="'client-4'"):
            machines.members[name].vote(machines.server.ballot(name))
    with pytest.raises(RoundAborted, match="0 members voted"):
        machines.server.quorum()
    machines.server.forfeit()
    the_next_round_is_as_ever(machines)


def test_a_copied_ciphertext_with_own_shares_opens_nothing(machines: CommitteeMachines) -> None:
    """The copier does not have the key that belongs to it: with any other the sum's errors are out of bounds."""
    attacked = Attacked(machines)
    victim = attacked.honest[VICTIM]
    own = share_key(ClientKey.generate(attacked.layout).coefficients, SMALL, stream=SecureStream())
    attacked.sends(
        replace(attacked.own, body=victim.body, ciphertext_digest=victim.ciphertext_digest, shares=attacked.sealed(own))
    )
    with pytest.raises(OpeningError):
        machines.finish()


# Digits and errors beyond what an honest client may send.


def test_a_digit_too_large_is_the_same_upload_as_one_that_carries(machines: CommitteeMachines) -> None:
    """T e + m has one reading with digits in range: a digit that is too large is another vector, or another error."""
    attacked = Attacked(machines)
    layout = attacked.layout
    assert layout.digits == 2
    k, b = layout.coefficients, layout.digit_bits
    key, errors = ClientKey.generate(layout).coefficients, fresh_errors(layout)
    too_large, carried = (np.arange(LENGTH, dtype=np.int64) - 50 for _ in range(2))
    too_large[3] = layout.largest_digit + 8
    carried[3], carried[k + 3] = too_large[3] - (1 << b), carried[k + 3] + 1
    too_large[k + 5], more = 1 - (3 << (b - 1)), errors.copy()
    carried[k + 5], more[5] = too_large[k + 5] + (1 << b), errors[5] - 1
    with pytest.raises(CapacityError):
        ClientKey.generate(layout).encrypt(too_large, seed=attacked.header_digest)
    one = raw_ciphertext(layout, key, too_large, errors, seed=attacked.header_digest)
    assert int(np.abs(carried).max()) <= layout.largest_digit
    two = raw_ciphertext(layout, key, carried, more, seed=attacked.header_digest)
    assert one == two


def test_digits_too_large_spoil_their_neighbours_by_one_and_nothing_else(machines: CommitteeMachines) -> None:
    """Poisoning, as with a vector of the attacker's choice: whoever reads the release learns no more than with that."""
    attacked = Attacked(machines)
    layout = attacked.layout
    k, b = layout.coefficients, layout.digit_bits
    honest = attacked.honest_sum()
    digits = np.zeros(LENGTH, dtype=np.int64)
    digits[7] = 3 << b  # three carries into the neighbour, nothing in its own place
    digits[9] = (
        layout.largest_digit - honest[9] + 1 + 2
    )  # just beyond the range of the sum, past the value that has no place
    attacked.sends(attacked.encrypted(lambda layout: (digits, fresh_errors(layout))))
    expected = honest.copy()
    expected[k + 7] += 3
    expected[9] += digits[9] - (1 << b)
    expected[k + 9] += 1
    assert np.array_equal(attacked.released_integers(), expected)


def test_a_top_digit_too_large_goes_into_the_error_and_is_found_beyond_its_bound(machines: CommitteeMachines) -> None:
    attacked = Attacked(machines)
    layout = attacked.layout
    digits = np.zeros(LENGTH, dtype=np.int64)
    digits[layout.coefficients + 1] = (layout.error_bound(5) * 2) << layout.digit_bits
    attacked.sends(attacked.encrypted(lambda layout: (digits, fresh_errors(layout))))
    with pytest.raises(OpeningError):
        machines.finish()
    assert machines.run.transcript.head == bytes(32)
    machines.server.forfeit()
    the_next_round_is_as_ever(machines)


def test_errors_of_the_attackers_choice_change_no_digit(machines: CommitteeMachines) -> None:
    """Within the bound they have no effect at all, beyond it nothing opens: nobody is told which coefficient it was."""
    for number, (size, opens) in enumerate([(0, True), (40, True), (10_000, False)]):
        attacked = Attacked(machines, number)
        honest, errors = attacked.honest_sum(), np.full(attacked.layout.coefficients, size, dtype=np.int64)
        attacked.sends(attacked.encrypted(lambda layout, errors=errors: (np.zeros(LENGTH, dtype=np.int64), errors)))
        if opens:
            assert np.array_equal(attacked.released_integers(), honest)
        else:
            with pytest.raises(OpeningError) as caught:
                machines.finish()
            assert not any(character.isdigit() for character in str(caught.value.__cause__ or ""))
            machines.server.forfeit()


def test_a_key_beyond_its_bound_opens_nothing(machines: CommitteeMachines) -> None:
    """However it is shared: a summed key with a coefficient that no honest sum has is not accepted."""
    attacked = Attacked(machines)
    layout = attacked.layout
    key = ClientKey.generate(layout).coefficients.copy()
    key[11] += 2 * layout.key_bound(5)
    body = raw_ciphertext(
        layout, key, np.zeros(LENGTH, dtype=np.int64), fresh_errors(layout), seed=attacked.header_digest
    )
    attacked.sends(
        replace(
            attacked.own,
            body=body,
            ciphertext_digest=digest(body),
            shares=attacked.sealed(share_key(key, SMALL, stream=SecureStream())),
        )
    )
    with pytest.raises(OpeningError):
        machines.finish()
    alone = CiphertextSum(layout)
    alone.add(body)
    with pytest.raises(OpeningError, match="coefficient of the key"):
        open_sum(layout, alone.total(), key, seed=attacked.header_digest, uploads=1)
