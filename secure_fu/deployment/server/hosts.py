"""Which node hosts which party, as the parties themselves have signed, and the way to ask them."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from secure_fu.crypto import Role, Roster
from secure_fu.crypto.wire import decode, encode
from secure_fu.deployment.exchange import Exchange
from secure_fu.deployment.exchange.messages import (
    PROTOCOL,
    Hello,
    HelloAnswer,
    Kind,
    NodeReply,
    NodeRequest,
    Outcome,
    PartyAnswer,
)
from secure_fu.deployment.logs import event
from secure_fu.errors import CryptoError, RoundAborted
from secure_fu.protocol import Policy

__all__ = ["Hosts", "LeftOut", "PartiesAway", "software_version"]

_LOGGER = logging.getLogger("secure_fu")


def software_version() -> str:
    """Version of this package, as it is installed."""
    return importlib.metadata.version("secure-fu")


class PartiesAway(RoundAborted):
    """Too few parties can be reached for a round; nothing was asked and nothing is charged."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A node, or a party that it says it hosts, that is not listened to.

    Attributes:
        node: its address.
        party: name; empty where the node as a whole is left out.
        reason: in words.
    """

    node: str
    party: str
    reason: str

    def __str__(self) -> str:
        return f"node {self.node}{f', party {self.party!r}' if self.party else ''}: {self.reason}"


class _Refused(Exception):
    """Why a claim is not believed."""


class Hosts:
    """Finds the parties of a roster on the nodes of an exchange.

    Formal guarantees:
        A party is asked only at a node that has signed a fresh nonce with the party's key of the roster, and that says
        that it runs this version, roster, policy and parameter sets. A party that two nodes answer for is asked at
        neither: its keys have been copied, and its records with them.
    Not guaranteed:
        That a node is still what it was a moment ago. What it sends is signed by its party, or is not used.

    Args:
        exchange: with the nodes.
        roster, policy: pinned.
        timeout: seconds for a greeting.
        software: version that all nodes must run; this package's unless given.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        roster: Roster,
        policy: Policy,
        timeout: float = 20.0,
        software: str | None = None,
    ) -> None:
        self._exchange = exchange
        self._roster = roster
        self._policy = policy
        self._timeout = timeout
        self._software = software_version() if software is None else software
        self._claims: dict[str, tuple[str, ...]] = {}
        self._left_out: dict[tuple[str, str], LeftOut] = {}

    @property
    def roster(self) -> Roster:
        """Pinned identities."""
        return self._roster

    @property
    def policy(self) -> Policy:
        """Pinned demands."""
        return self._policy

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Nodes, and parties at nodes, that answered and are not listened to."""
        return tuple(self._left_out.values())

    @property
    def present(self) -> frozenset[str]:
        """Names of the parties that can be asked."""
        return frozenset(self._addresses)

    @property
    def _addresses(self) -> dict[str, str]:
        found: dict[str, list[str]] = {}
        for address, parties in self._claims.items():
            for party in parties:
                found.setdefault(party, []).append(address)
        return {party: addresses[0] for party, addresses in found.items() if len(addresses) == 1}

    def survey(self, *, anew: bool = False) -> None:
        """Greet the nodes that are new, or were silent when they were last asked.

        Args:
            anew: greet all nodes.
        """
        known = self._exchange.nodes()
        for address in [address for address in self._claims if anew or address not in known]:
            del self._claims[address]
        for key in [key for key in self._left_out if anew or key[0] not in known]:
            del self._left_out[key]
        nonces = {address: os.urandom(32) for address in known if address not in self._claims}
        requests = {
            address: encode(
                NodeRequest(
                    kind=Kind.HELLO,
                    parties=(),
                    bodies=(
                        encode(
                            Hello(
                                nonce=nonce,
                                roster_digest=self._roster.digest,
                                protocol=PROTOCOL,
                                software=self._software,
                            )
                        ),
                    ),
                )
            )
            for address, nonce in nonces.items()
        }
        for address, reply in self._exchange.ask(requests, timeout=self._timeout) if requests else ():
            if address in nonces and address not in self._claims:
                self._take(address, nonces[address], reply)
        self._note_copies()

    def _take(self, address: str, nonce: bytes, reply: bytes) -> None:
        for key in [key for key in self._left_out if key[0] == address]:
            del self._left_out[key]
        try:
            answers = decode(NodeReply, reply).answers
        except CryptoError as error:
            self._leave_out(address, "", f"its answer to a greeting is none of protocol {PROTOCOL}: {error}")
            return
        believed: list[str] = []
        for answer in answers:
            try:
                self._check(answer, nonce)
            except _Refused as refusal:
                self._leave_out(address, answer.party, str(refusal))
            else:
                if answer.party not in believed:
                    believed.append(answer.party)
        if believed:
            self._claims[address] = tuple(believed)
        elif not answers:
            self._leave_out(address, "", "it hosts no party")

    def _check(self, answer: PartyAnswer, nonce: bytes) -> None:
        if answer.outcome is not Outcome.DONE:
            raise _Refused(f"it answers a greeting with {answer.outcome.value!r}; its own log says why")
        try:
            said = decode(HelloAnswer, answer.body)
            said.check(self._roster)
            role = self._roster.party(said.party).role
        except CryptoError as error:
            raise _Refused(str(error)) from None
        if role is Role.SERVER:
            raise _Refused("it has the server's keys, which no node may have")
        if said.party != answer.party or said.nonce != nonce:
            raise _Refused("its signature is for another greeting or another party")
        if (said.protocol, said.software) != (PROTOCOL, self._software):
            raise _Refused(
                f"it runs secure_fu {said.software} with protocol {said.protocol}; this server runs {self._software} "
                f"with {PROTOCOL}"
            )
        if said.roster_digest != self._roster.digest:
            raise _Refused(f"it has the roster {said.roster_digest.hex()}; this server {self._roster.digest.hex()}")
        own = self._policy.digest
        if said.policy_digest != own:
            raise _Refused(f"it has the policy {said.policy_digest.hex()}; this server {own.hex()}")
        lacking = sorted(self._policy.parameter_sets - set(said.parameter_sets))
        if lacking:
            raise _Refused(f"it has not the parameter sets {', '.join(lacking)}")

    def _note_copies(self) -> None:
        addresses = self._addresses
        for address, parties in self._claims.items():
            for party in parties:
                if party in addresses:
                    self._left_out.pop((address, party), None)
                else:
                    self._leave_out(address, party, "another node answers for this party too; stop one of them")

    def _leave_out(self, address: str, party: str, reason: str) -> None:
        left = LeftOut(node=address, party=party, reason=reason)
        if self._left_out.get((address, party)) != left:
            _LOGGER.warning("left out: %s", left)
        self._left_out[address, party] = left

    def require(self, *, clients: Collection[str]) -> None:
        """Refuse a round that too few can be reached for.

        Args:
            clients: that the round is to invite.

        Raises:
            PartiesAway: fewer clients than the minimum cohort, or fewer of those who open than a quorum.
        """
        present, policy = self.present, self._policy
        for what, names, least in (
            ("clients", clients, policy.minimum_cohort),
            ("of those who open", policy.committee, policy.terms.quorum),
        ):
            there = [name for name in names if name in present]
            if len(there) < least:
                away = sorted(set(names) - set(there))
                reasons = "; ".join(str(left) for left in self.left_out[:5])
                raise PartiesAway(
                    f"{len(there)} {what} can be reached, and a round needs {least}; away: {', '.join(away[:8])}"
                    f"{' and more' if len(away) > 8 else ''}{f'; left out: {reasons}' if reasons else ''}"
                )

    def ask(
        self, kind: Kind, parties: Collection[str], body: bytes | Callable[[str], bytes], *, timeout: float
    ) -> Iterator[PartyAnswer]:
        """Ask parties, wherever they are, and hand out their answers as they come.

        A node that is silent, or answers with something else than a reply, is not asked again before it has been
        greeted, see :meth:`survey`.

        Args:
            kind: of the request.
            parties: names; those that cannot be reached are passed over.
            body: one for all, or what makes each party's.
            timeout: seconds for all of it.

        Yields:
            each party's answer, at most one.
        """
        addresses, asked = self._addresses, dict[str, list[str]]()
        for party in parties:
            if party in addresses:
                asked.setdefault(addresses[party], []).append(party)
        silent = set(asked)
        requests = _Requests(kind, asked, body)
        for address, reply in self._exchange.ask(requests, timeout=timeout) if asked else ():
            if address not in silent:
                continue
            try:
                answers = decode(NodeReply, reply).answers
            except CryptoError as error:
                _LOGGER.warning("node %s answers %s with no reply: %s", address, kind.value, error)
                continue
            finally:
                del reply  # what follows takes the answers' copies apart, one by one
            silent.discard(address)
            yield from _of(address, kind, asked[address], answers)
            del answers
        for address in silent:
            _LOGGER.warning("node %s is silent (%s): %s", address, kind.value, ", ".join(asked[address][:8]))
            self._claims.pop(address, None)


def _of(address: str, kind: Kind, asked: list[str], answers: tuple[PartyAnswer, ...]) -> Iterator[PartyAnswer]:
    """The answers of parties that were asked, one of each."""
    waiting = set(asked)
    for answer in answers:
        if answer.party in waiting:
            waiting.discard(answer.party)
            if answer.outcome is Outcome.AHEAD:
                _LOGGER.warning(
                    "party %s refuses: this server may have gone back, for it has answered a later round or order; "
                    "look for a newer backup",
                    answer.party,
                    extra=event("server-may-have-gone-back", {"party": answer.party, "kind": kind.value}),
                )
            yield answer
        else:
            _LOGGER.warning("node %s answers %s for %r, unasked or again", address, kind.value, answer.party)


class _Requests(Mapping[str, bytes]):
    """Requests by address, each made when it is looked up: an invitation has the model, and nodes may be many."""

    def __init__(self, kind: Kind, asked: Mapping[str, list[str]], body: bytes | Callable[[str], bytes]) -> None:
        self._kind, self._asked, self._body = kind, asked, body
        self._lock = threading.Lock()

    def __getitem__(self, address: str) -> bytes:
        parties = self._asked[address]
        with self._lock:  # an exchange may look up in threads of its own; what makes bodies need not know
            body = self._body
            bodies = (body,) if isinstance(body, bytes) else tuple(body(party) for party in parties)
        return encode(NodeRequest(kind=self._kind, parties=tuple(parties), bodies=bodies))

    def __iter__(self) -> Iterator[str]:
        return iter(self._asked)

    def __len__(self) -> int:
        return len(self._asked)
