"""What a server and its nodes say to each other around the rounds; the rounds' own messages travel inside as they are.

A node hosts parties. One :class:`NodeRequest` addresses some of them with one kind of message; one :class:`NodeReply`
has an answer for each. Bodies, by kind:

=========== ============================ ==============================
kind        body to a party              body from it, if it is DONE
=========== ============================ ==============================
`hello`     :class:`Hello`               :class:`HelloAnswer`
`begin`     :class:`Begin`               nothing
`invite`    `Invitation`                 `Upload`
`ballot`    `Ballot`                     `Vote`
`quorum`    `Quorum`                     `Answer`
`issue-key` `Announcement`               `RoundKey`
`open`      `OpeningRequest`             `Opening`
`wipe`      :class:`Wipe`                :class:`WipeStatement`
=========== ============================ ==============================

Everything that makes a party do something is signed by the server; a node need trust neither the relay nor its socket.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import Annotated, Final

from secure_fu.crypto import Identity, Role, Roster
from secure_fu.crypto.wire import U32, U64, Blob, Choice, Fixed, Nested, Sequence, Text, encode, message
from secure_fu.deletion.requests import SignedRequest, decode_request
from secure_fu.deletion.wiping import MAX_SETTINGS_BYTES, WipeStatement, order_digest, wipe_commitment
from secure_fu.errors import ArgumentError
from secure_fu.protocol.header import canonical_settings, parse_settings
from secure_fu.protocol.messages import Digest, Name, Signature
from secure_fu.unlearning import UnlearningMethod, method_from_settings, settings_of

__all__ = [
    "PROTOCOL",
    "Begin",
    "Hello",
    "HelloAnswer",
    "Kind",
    "NodeDomain",
    "NodeReply",
    "NodeRequest",
    "Order",
    "Outcome",
    "PartyAnswer",
    "Wipe",
    "WipeStatement",
    "addressed",
    "method_of",
    "order_settings",
    "wipe_commitment",
]

PROTOCOL: Final = "secure-fu/1"
_MAX_HOSTED: Final = 1 << 16
_MAX_BODY: Final = (1 << 32) - 1
_MAX_REQUEST: Final = 1 << 26
_MAX_REQUESTS: Final = 100_000
_LENGTH_BYTES: Final = 4  # of a blob on the wire

RunId = Annotated[bytes, Fixed(16)]
WindowId = Annotated[bytes, Fixed(16)]


class NodeDomain(StrEnum):
    """What a signature of this module is for; see :class:`secure_fu.protocol.messages.Domain`."""

    HELLO = "hello"
    BEGIN = "begin"
    WIPE = "wipe"


class Kind(Enum):
    """What is asked of parties at a node; the value is what travels."""

    HELLO = "hello"
    BEGIN = "begin"
    INVITE = "invite"
    BALLOT = "ballot"
    QUORUM = "quorum"
    ISSUE_KEY = "issue-key"
    OPEN = "open"
    WIPE = "wipe"


class Outcome(Enum):
    """What became of it at one party. Why it was refused or failed is in the node's own log and does not travel."""

    DONE = "done"
    REFUSED = "refused"  # by policy, ledger, roster, signature or record
    AHEAD = "ahead"  # it has answered a later round or order: the server may have gone back
    UNKNOWN_RUN = "unknown-run"  # the run's Begin has not come yet, or is forgotten: send it
    FAILED = "failed"


@message("node-request")
@dataclass(frozen=True, kw_only=True)
class NodeRequest:
    """Server to a node.

    Attributes:
        parties: those it is for, without repeats; for `hello` none means all that are there.
        bodies: one for all of them, or one for each in their order.

    Raises:
        ArgumentError: repeats, or another number of bodies.
    """

    kind: Annotated[Kind, Choice(Kind)]
    parties: Annotated[tuple[str, ...], Sequence(Text(64), _MAX_HOSTED)]
    bodies: Annotated[tuple[bytes, ...], Sequence(Blob(_MAX_BODY), _MAX_HOSTED)]

    def __post_init__(self) -> None:
        if len(set(self.parties)) != len(self.parties):
            raise ArgumentError("parties", f"{len(self.parties)} names", "names without repeats")
        if not self.bodies or len(self.bodies) not in (1, len(self.parties)):
            raise ArgumentError("bodies", f"{len(self.bodies)} bodies", f"1, or {len(self.parties)}, one for each")

    def body_for(self, position: int) -> bytes:
        """The body for the party at a position."""
        return self.bodies[0] if len(self.bodies) == 1 else self.bodies[position]


@message("party-answer")
@dataclass(frozen=True, kw_only=True)
class PartyAnswer:
    """One party's answer; empty unless it is DONE."""

    party: Name
    outcome: Annotated[Outcome, Choice(Outcome)]
    body: Annotated[bytes, Blob(_MAX_BODY)]


@message("node-reply")
@dataclass(frozen=True, kw_only=True)
class NodeReply:
    """A node to the server: an answer for each party in the request's order; none to what was no request."""

    answers: Annotated[tuple[PartyAnswer, ...], Sequence(Nested(PartyAnswer), _MAX_HOSTED)]


@message("hello")
@dataclass(frozen=True, kw_only=True)
class Hello:
    """Server to a node: who is there?

    Attributes:
        nonce: random; the answer carries it, so that an old one is found.
        roster_digest: of the roster that the server has.
        protocol: :data:`PROTOCOL`.
        software: the server's version.
    """

    nonce: Digest
    roster_digest: Digest
    protocol: Name
    software: Name


@message("hello-answer")
@dataclass(frozen=True, kw_only=True)
class HelloAnswer:
    """A party to the server: I am here, and this is what I have pinned.

    Attributes:
        policy_digest: see :attr:`secure_fu.protocol.Policy.digest`.
        parameter_sets: that its policy and its software can encrypt or open under, sorted.
        signature: of the party, over :attr:`statement`.
    """

    party: Name
    nonce: Digest
    roster_digest: Digest
    policy_digest: Digest
    protocol: Name
    software: Name
    parameter_sets: Annotated[tuple[str, ...], Sequence(Text(64), 256)]
    signature: Signature

    @property
    def statement(self) -> bytes:
        """What the signature covers: the encoded message with zeros in the signature's place."""
        return encode(replace(self, signature=bytes(64)))

    def signed(self, identity: Identity) -> HelloAnswer:
        """The same with the party's signature."""
        return replace(self, signature=identity.sign(NodeDomain.HELLO, self.statement))

    def check(self, roster: Roster) -> None:
        """Return only if the party that it names has signed it.

        Raises:
            RosterError, SignatureError: it has not.
        """
        role = roster.party(self.party).role
        roster.verify(self.party, role, NodeDomain.HELLO, self.statement, self.signature)


@message("order")
@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be forgotten in a run, and how; with the requests that the client needs to see, and no others.

    Attributes:
        window_id: 16 bytes that name the deletion window, never used for another order.
        opened: when the window was due, in seconds since 1970 (UTC).
        method: by its name; see :func:`secure_fu.unlearning.installed`.
        settings: of the method, see :func:`order_settings`.
        request_digests: SHA-256 of all requests of the window, sorted. A request has random salt and sealed boxes, so
            that its digest tells nothing to whom it does not concern.
        requests: encoded :class:`~secure_fu.deletion.requests.SignedRequest`, those that concern the client.
        hidden_units: how many units each client may add on requests of its own that nobody else sees.
        continues_after: 0 where clients remember none of their rounds of before, else 1 + the number of the last round
            that they still remember; see :meth:`secure_fu.training.Silo.forgetting`.
        padding: ignored; so much that all clients are sent equally many bytes.
    """

    window_id: WindowId
    opened: Annotated[int, U64]
    method: Name
    settings: Annotated[str, Text(MAX_SETTINGS_BYTES)]
    request_digests: Annotated[tuple[bytes, ...], Sequence(Fixed(32), _MAX_REQUESTS)]
    requests: Annotated[tuple[bytes, ...], Sequence(Blob(_MAX_REQUEST), _MAX_REQUESTS)]
    hidden_units: Annotated[int, U32]
    continues_after: Annotated[int, U64]
    padding: Annotated[bytes, Blob(_MAX_BODY)] = b""

    @classmethod
    def of(
        cls,
        *,
        window_id: bytes,
        opened: int,
        method: UnlearningMethod,
        requests: Iterable[SignedRequest],
        hidden_units: int,
        continues_after: int,
    ) -> Order:
        """The server's own, with all requests whole; see :func:`addressed` for what a client is sent of it."""
        whole = tuple(encode(one) for one in requests)
        return cls(
            window_id=window_id,
            opened=opened,
            method=method.name,
            settings=order_settings(method),
            request_digests=tuple(sorted(hashlib.sha256(one).digest() for one in whole)),
            requests=whole,
            hidden_units=hidden_units,
            continues_after=continues_after,
        )

    @property
    def digest(self) -> bytes:
        """Of what is ordered, 32 bytes, the same for all; see :func:`secure_fu.deletion.wiping.order_digest`."""
        return order_digest(
            window_id=self.window_id,
            opened=self.opened,
            method=self.method,
            settings=self.settings,
            request_digests=self.request_digests,
            hidden_units=self.hidden_units,
            continues_after=self.continues_after,
        )


@message("begin-statement")
@dataclass(frozen=True, kw_only=True)
class _BeginStatement:
    """What the signature of a :class:`Begin` covers: the same for every client."""

    run_id: RunId
    branch: Annotated[str, Text(256)]
    order: Annotated[tuple[bytes, ...], Sequence(Fixed(32), 1)]


@message("begin")
@dataclass(frozen=True, kw_only=True)
class Begin:
    """Server to a client: a run of this id is about to begin, or goes on.

    Attributes:
        run_id: as in the headers of its rounds; see :func:`secure_fu.protocol.run_id.run_id_of`.
        branch: its name in the server's ledger.
        order: the deletion that the run is for; none for training.
        signature: of the server, over :attr:`statement`.
    """

    run_id: RunId
    branch: Annotated[str, Text(256)]
    order: Annotated[tuple[Order, ...], Sequence(Nested(Order), 1)]
    signature: Signature

    @property
    def order_digest(self) -> bytes:
        """Of the order; empty for training."""
        return self.order[0].digest if self.order else b""

    @property
    def statement(self) -> bytes:
        """What the signature covers: run, branch and the order's digest, so that one signature is for all clients."""
        orders = tuple(order.digest for order in self.order)
        return encode(_BeginStatement(run_id=self.run_id, branch=self.branch, order=orders))

    @classmethod
    def signed(cls, identity: Identity, *, run_id: bytes, branch: str, order: Order | None = None) -> Begin:
        """The server's message; the same bytes for the same run and order."""
        unsigned = cls(run_id=run_id, branch=branch, order=() if order is None else (order,), signature=bytes(64))
        return replace(unsigned, signature=identity.sign(NodeDomain.BEGIN, unsigned.statement))

    def check(self, roster: Roster, server: str) -> None:
        """Return only if the pinned server has signed it.

        Raises:
            RosterError, SignatureError: it has not.
        """
        roster.verify(server, Role.SERVER, NodeDomain.BEGIN, self.statement, self.signature)


@message("wipe")
@dataclass(frozen=True, kw_only=True)
class Wipe:
    """Server to a client: the window is executed in this run; destroy what it covers.

    Attributes:
        signature: of the server, over :attr:`statement`.
    """

    run_id: RunId
    window_id: WindowId
    signature: Signature

    @property
    def statement(self) -> bytes:
        """What the signature covers: the encoded message with zeros in the signature's place."""
        return encode(replace(self, signature=bytes(64)))

    @classmethod
    def signed(cls, identity: Identity, *, run_id: bytes, window_id: bytes) -> Wipe:
        """The server's message."""
        unsigned = cls(run_id=run_id, window_id=window_id, signature=bytes(64))
        return replace(unsigned, signature=identity.sign(NodeDomain.WIPE, unsigned.statement))

    def check(self, roster: Roster, server: str) -> None:
        """Return only if the pinned server has signed it.

        Raises:
            RosterError, SignatureError: it has not.
        """
        roster.verify(server, Role.SERVER, NodeDomain.WIPE, self.statement, self.signature)


def order_settings(method: UnlearningMethod) -> str:
    """A method's settings as the one text that an :class:`Order` carries; see :func:`settings_of`."""
    return canonical_settings(settings_of(method))


def method_of(name: str, settings: str) -> UnlearningMethod:
    """The method that an order names, with its settings.

    Args:
        name: of the method.
        settings: as :func:`order_settings` wrote them.

    Raises:
        ConfigError: there is no such method or setting.
        ProtocolError: the settings are no canonical text.
    """
    return method_from_settings(name, parse_settings(settings))


def addressed(begin: Begin) -> Callable[[str], bytes]:
    """What each client is sent of a run, encoded: whole requests only where they concern it, and for all one length.

    Not guaranteed:
        That the length tells nothing: it follows from the number of the window's requests and from their lengths.
        Whom they concern does not change it.

    Args:
        begin: the server's own, for a deletion.

    Returns:
        the body for a client's name.
    """
    (order,) = begin.order
    shares: dict[str, list[bytes]] = {}
    for content in order.requests:
        for box in decode_request(content).boxes:
            shares.setdefault(box.client, []).append(content)
    length = _share_bytes(order.requests)

    def share_of(client: str) -> bytes:
        share = tuple(shares.get(client, ()))
        own = replace(order, requests=share, padding=bytes(length - _share_bytes(share)))
        return encode(replace(begin, order=(own,)))

    return share_of


def _share_bytes(share: tuple[bytes, ...]) -> int:
    return sum(len(content) + _LENGTH_BYTES for content in share)
