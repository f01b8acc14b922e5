"""A server that breaks every rule, and f members that tell it everything: what attacks on scheme `kahe` share.

An attack is one piece of code that runs twice: against the parties as they are, where it has to fail, and against
parties that one defence was taken out of (in the test only), where it has to succeed. Each attack therefore ends in
what the server reads, exact integers, or raises what the first honest party refused it with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pytest
from committee_machines import CommitteeMachines, announcement_in, share_in
from machines import Gives
from numpy.typing import NDArray

from secure_fu.crypto import Identity, Role, Roster, seal
from secure_fu.crypto.kahe import PARAMETER_SETS, CiphertextSum, Layout
from secure_fu.crypto.sharing import FIELD_PRIME, encode_share
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import SecureFUError
from secure_fu.protocol import Header, Policy
from secure_fu.protocol.committee.layout import layout_of
from secure_fu.protocol.committee.member_record import MemberRecord, RecordedVote
from secure_fu.protocol.committee.messages import ShareBinding
from secure_fu.protocol.header import committee_of, grid_of, noise_share_of
from secure_fu.protocol.messages import Announcement, Domain, Roll, Upload, digest
from secure_fu.protocol.roll_check import check_roll

__all__ = [
    "CLIENTS_BELIEVED",
    "MEMBER",
    "MINIMUM_IGNORED",
    "Attacker",
    "ForgetfulRecord",
    "attempt",
    "bind_seals_to",
    "collected",
    "contributions",
    "made_upload",
    "noise_in",
    "stands_and_falls",
    "without_pin",
]

T = TypeVar("T")
Integers = NDArray[np.int64]

MEMBER = "secure_fu.protocol.committee.member"

stands_and_falls = pytest.mark.parametrize("defended", [True, False], ids=["stands", "taken out"])
"""Runs a test against the parties as they are, and with its one defence taken out."""


def attempt(attack: Callable[[], T], *, refused: type[SecureFUError] | None, match: str | None = None) -> T | None:
    """Run an attack that has to be refused (None then), or has to go through."""
    if refused is None:
        return attack()
    with pytest.raises(refused, match=match):
        attack()
    return None


def contributions(number: int) -> NDArray[np.float64]:
    """What client `number` has, different for each; see `make_committee_machines`."""
    return np.linspace(-0.3, 0.4, 6) * (number + 1)


def integers(machines: CommitteeMachines, name: str, announcement: Announcement) -> Integers:
    """What a client encrypted last: its contribution on the grid, and the noise that it drew."""
    header = decode(Header, announcement.header)
    grid = grid_of(header)
    task: Gives = machines.tasks[name]
    encoded = grid.encode(
        np.asarray(task.contribution_given),
        seed=announcement.header_digest,
        stream=machines.tape.last(f"rounding/{name}"),
    )
    return encoded + noise_in(machines, name, announcement)


def noise_in(machines: CommitteeMachines, name: str, announcement: Announcement) -> Integers:
    """The noise that a client drew last."""
    header = decode(Header, announcement.header)
    size = grid_of(header).encoded_dimension
    return machines.tape.last(f"noise/{name}").replayed(noise_share_of(header), size)


@dataclass
class Attacker:
    """The server with its true keys, the corrupt members with theirs, and all uploads of one header.

    Attributes:
        uploads: what clients sent, by name.
        truth: the integers in them, which the server should never read one by one.
        refusals: what honest members answered instead of what they were asked for.
    """

    machines: CommitteeMachines
    announcement: Announcement
    uploads: dict[str, bytes]
    truth: dict[str, Integers]
    refusals: list[SecureFUError] = field(default_factory=list)

    @classmethod
    def tapping(cls, machines: CommitteeMachines, invitation: bytes, clients: Collection[str]) -> Attacker:
        """With what clients answer to an invitation, whoever made it."""
        announcement = announcement_in(invitation)
        uploads = machines.uploads(invitation, clients)
        truth = {name: integers(machines, name, announcement) for name in clients}
        return cls(machines, announcement, uploads, truth)

    @property
    def header(self) -> Header:
        """Of the round."""
        return decode(Header, self.announcement.header)

    @property
    def layout(self) -> Layout:
        """Of the round's ciphertexts."""
        return layout_of(self.header)

    @property
    def corrupt(self) -> tuple[str, ...]:
        """As many members as the committee is made to withstand."""
        return self.header.committee[-self.header.corrupt :]

    @property
    def honest(self) -> tuple[str, ...]:
        """The others."""
        return self.header.committee[: -self.header.corrupt]

    def of(self, *clients: str) -> dict[str, bytes]:
        """The uploads of some clients."""
        return {name: self.uploads[name] for name in clients}

    def sum_of(self, *clients: str) -> Integers:
        """The truth about a set of clients."""
        return np.sum([self.truth[name] for name in clients], axis=0)

    def total_of(self, clients: Collection[str]) -> bytes:
        """The sum of true ciphertexts."""
        total = CiphertextSum(self.layout)
        for name in clients:
            total.add(decode(Upload, self.uploads[name]).body)
        return total.total()

    def roll(self, uploads: Mapping[str, bytes]) -> Roll:
        """A roll of any uploads, truly signed by the server."""
        return self.machines.roll_of(self.announcement, uploads)

    def ballots(self, roll: Roll, uploads: Mapping[str, bytes]) -> Callable[[str], bytes]:
        """Each member's ballot, with the boxes that the uploads hold."""
        return lambda member: self.machines.ballot_of(self.announcement, roll, uploads, member)

    def votes(self, roll: Roll, ballots: Callable[[str], bytes], members: Collection[str] | None = None) -> list[bytes]:
        """The votes of those honest members (all, unless given) that give one, and of all corrupt ones."""
        votes = [self.machines.corrupt_vote(self.announcement, roll, name) for name in self.corrupt]
        for name in self.honest if members is None else members:
            try:
                votes.append(self.machines.members[name].vote(ballots(name)))
            except SecureFUError as refusal:
                self.refusals.append(refusal)
        return votes

    def answers(
        self, roll: Roll, votes: list[bytes], members: Collection[str] | None = None
    ) -> dict[str, NDArray[np.uint16]]:
        """What those honest members (all, unless given) say that answer on these votes."""
        quorum = self.machines.quorum_of(self.announcement, roll, votes)
        told = {}
        for name in self.honest if members is None else members:
            try:
                told[name] = share_in(self.machines.members[name].answer(quorum))
            except SecureFUError as refusal:
                self.refusals.append(refusal)
        return told

    def pooled(self, weights: Mapping[str, int]) -> dict[str, NDArray[np.uint16]]:
        """What the corrupt members hold of true uploads, each client's share times its weight."""
        told = {}
        for member in self.corrupt:
            position = self.header.committee.index(member)
            total = np.zeros(committee_of(self.header).share_length(self.layout.parameter_set.degree), dtype=np.int64)
            for name, weight in weights.items():
                box = decode(Upload, self.uploads[name]).shares[position]
                share = self.machines.opened_share(self.announcement, name, box, member)
                total += weight * share.astype(np.int64)
            told[member] = (total % FIELD_PRIME).astype(np.uint16)
        return told

    def opened(
        self,
        listed: Mapping[str, bytes],
        weights: Mapping[str, int],
        *,
        ballots: Callable[[str], bytes] | None = None,
        members: Collection[str] | None = None,
    ) -> Integers:
        """Have a roll of `listed` voted for and answered, and read the weighted sum of true uploads with that.

        Args:
            listed: what the roll says is in the sum.
            weights: how often each client's key is in what the members answer, and its ciphertext in what is opened.
            ballots: what members get; made of the roll unless given.
            members: the honest ones that are asked.

        Raises:
            SecureFUError: what the first honest member refused with, if too few answer.
        """
        roll = self.roll(listed)
        return self.opened_roll(roll, weights, ballots=ballots or self.ballots(roll, listed), members=members)

    def opened_roll(
        self,
        roll: Roll,
        weights: Mapping[str, int],
        *,
        ballots: Callable[[str], bytes],
        members: Collection[str] | None = None,
        votes: list[bytes] | None = None,
    ) -> Integers:
        """As :meth:`opened`, for a roll made already; with `votes` to show besides those given for it."""
        given = self.votes(roll, ballots, members)
        told = self.answers(roll, given if votes is None else votes, members)
        return self.read(told | self.pooled(weights), weights)

    def read(self, told: Mapping[str, NDArray[np.uint16]], weights: Mapping[str, int]) -> Integers:
        """Read the weighted sum of true uploads with what members told."""
        if len(told) < self.header.threshold:
            raise self.refusals[0]
        times = {f"{name}/{time}": self.uploads[name] for name in weights for time in range(weights[name])}
        return self.machines.opens(self.announcement, times, told)

    def nobody_is_bound(self) -> bool:
        """Whether no honest member has voted for anything in this run."""
        record, run_id = self.machines.member_record, self.header.run_id
        return all(record.newest(name, run_id) is None for name in self.honest)


def collected(machines: CommitteeMachines, number: int = 0, *, cohort: Collection[str] | None = None) -> Attacker:
    """Announce a round honestly and collect all uploads of its cohort; the server goes its own ways from here."""
    invitation = machines.invited(number, cohort)
    return Attacker.tapping(machines, invitation, machines.names if cohort is None else cohort)


def made_upload(machines: CommitteeMachines, announcement: Announcement, client: str, signer: Identity) -> bytes:
    """An upload of the server's own making in a client's name: its key is zero, so it adds nothing to any sum."""
    header = decode(Header, announcement.header)
    terms = committee_of(header)
    degree = PARAMETER_SETS[header.parameter_set].degree
    nothing = encode_share(np.zeros(terms.share_length(degree), dtype=np.uint16))
    unsigned = Upload(
        header_digest=announcement.header_digest,
        client=client,
        ciphertext_digest=digest(b""),
        body=b"",
        shares=tuple(
            seal(
                machines.roster.party(member).sealing_key,
                nothing,
                associated_data=encode(
                    ShareBinding(header_digest=announcement.header_digest, client=client, member=member)
                ),
            )
            for member in header.committee
        ),
        signature=bytes(64),
    )
    return encode(replace(unsigned, signature=signer.sign(Domain.UPLOAD, unsigned.statement)))


def bind_seals_to(monkeypatch: pytest.MonkeyPatch, **fixed: str | bytes) -> None:
    """Clients seal, and members open, with part of the associated data left open: the same for all."""

    def binding(**true: Any) -> ShareBinding:
        return ShareBinding(**(true | fixed))

    monkeypatch.setattr(f"{MEMBER}.ShareBinding", binding)
    monkeypatch.setattr("secure_fu.protocol.committee.encryption.ShareBinding", binding)
    monkeypatch.setattr("committee_machines.ShareBinding", binding)


class _BelievesClients:
    """A roster that holds everybody's signature against the message, but a client's."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    def verify(self, name: str, role: Role, domain: str, message: bytes, signature: bytes) -> None:
        if role is not Role.CLIENT:
            self._roster.verify(name, role, domain, message, signature)


def _check_roll_believing_clients(
    roll: Roll, header: Header, header_digest: bytes, *, roster: Roster, server: str
) -> None:
    check_roll(roll, header, header_digest, roster=_BelievesClients(roster), server=server)  # type: ignore[arg-type]


CLIENTS_BELIEVED = (f"{MEMBER}.check_roll", _check_roll_believing_clients)
"""For `monkeypatch.setattr`: members that do not verify the signatures of clients."""


def _check_roll_without_minimum(
    roll: Roll, header: Header, header_digest: bytes, *, roster: Roster, server: str
) -> None:
    check_roll(roll, replace(header, minimum_cohort=1), header_digest, roster=roster, server=server)


MINIMUM_IGNORED = (f"{MEMBER}.check_roll", _check_roll_without_minimum)
"""For `monkeypatch.setattr`: members that open rolls of any length."""


def without_pin(*names: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Takes out what policies say of some header fields."""
    refuse = Policy._refuse

    def others(name: str, value: object, allowed: str) -> None:
        if name not in names:
            refuse(name, value, allowed)

    return lambda monkeypatch: monkeypatch.setattr(Policy, "_refuse", staticmethod(others))


class ForgetfulRecord(MemberRecord):
    """Remembers the last vote only, and lets it be followed by any other."""

    def newest(self, member: str, run_id: bytes) -> RecordedVote | None:
        return None

    def bind(self, member: str, run_id: bytes, vote: RecordedVote) -> None:
        self._file.write("DELETE FROM vote WHERE member = ? AND run_id = ?", (member, run_id))
        super().bind(member, run_id, vote)
