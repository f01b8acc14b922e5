"""A node: the parties of one machine, which alone have their keys, data and records, and answer messages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from importlib.metadata import version
from pathlib import Path
from typing import Final

from torch import nn

from secure_fu.crypto import OsRandomness, Randomness, Role, scheme
from secure_fu.crypto.wire import decode, encode
from secure_fu.deletion import DeletionRequest
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
from secure_fu.deployment.logs import cleaned, event
from secure_fu.deployment.node.client import NodeClient, UnknownRun
from secure_fu.deployment.node.directory import NodeDirectory
from secure_fu.deployment.node.state import ClientState, StateFile, left_requests, state_path
from secure_fu.errors import (
    AnsweredLater,
    ArgumentError,
    ConfigError,
    DataError,
    HistoryError,
    RecordError,
    SecureFUError,
)
from secure_fu.federation.agreed_policy import parameter_sets_of
from secure_fu.federation.fitting import check_fits
from secure_fu.federation.stored_formats import upgrade
from secure_fu.learning import FlatModel, Records
from secure_fu.privacy import Unit
from secure_fu.protocol import (
    ClientRecord,
    CommitteeEncryption,
    KeyHolder,
    KeyHolderEncryption,
    Member,
    MemberRecord,
    OpeningRecord,
    ReleasedModel,
    UploadEncryption,
)
from secure_fu.protocol.files import destroy_file
from secure_fu.scheme_names import KAHE
from secure_fu.training import ModelArchive, check_size

__all__ = ["REQUESTS", "Node"]

REQUESTS: Final = "requests"
"""Folder of private requests that wait to be taken up."""

_LOGGER = logging.getLogger("secure_fu")

Answer = Callable[[bytes], bytes]


class Node:
    """The parties that a directory says. Make one with :meth:`open`, or :meth:`create` for the first time.

    Formal guarantees:
        One process at a time has the directory, by the lock on each party's record. :meth:`handle` raises nothing:
        what is malformed, forged, replayed or for somebody else is refused, and changes nothing. A reply says which of
        five outcomes it was and no reason. Whether it is DONE, REFUSED or AHEAD, and how long it is, follows from the
        request, public policies, and what the party was asked before. A client's budget is its own record's: it is
        spent alike by who has something to forget and who has not.
    Assumes:
        The machine and its user are trusted by the parties hosted here, and no older copy of the directory is restored.
    Not guaranteed:
        That time tells nothing: how long a client computes depends on how much data it has.

    One thread at a time may use it: the one that made it.
    """

    def __init__(
        self,
        files: NodeDirectory,
        *,
        randomness: Randomness,
        module: nn.Module | None,
        records: Mapping[str, Records] | None,
        new: bool,
    ) -> None:
        self._files = files
        self._randomness = randomness
        self._clients: dict[str, NodeClient] = {}
        self._answers: dict[str, dict[Kind, Answer]] = {}
        with ExitStack() as opened:
            # What a new node lacks is found before anything is made; one that exists is locked first, it may be in use.
            brought = self._brought(module, records) if new else None
            own = {name: opened.enter_context(closing(_record(files, name, new=new))) for name in files.parties}
            if files.clients:
                self._open_clients(
                    own, brought or self._brought(module, records), handed_in=records is not None, new=new
                )
            for name in files.parties:
                self._answers[name] = self._machine(name, own[name])
            self._opened = opened.pop_all()
        try:
            self._take_up_requests()
            for client in self._clients.values():
                client.resume()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        randomness: Randomness | None = None,
        module: nn.Module | None = None,
        records: Mapping[str, Records] | None = None,
    ) -> Node:
        """Go on with a node that was made before, however its last process ended.

        Args:
            directory: see :class:`~secure_fu.deployment.node.NodeDirectory`.
            randomness: of sampling, rounding and noise; the operating system's unless a test needs otherwise.
            module: the federation's model; the one in `node.toml` unless given.
            records: of the clients hosted here, by name, as they were at first; of those that are gone only the place
                counts. Those in the data files unless given.

        Raises:
            ConfigError, CryptoError, RecordError: a file is missing, malformed, damaged or of another federation, or
                another process has the directory.
            DataError: the records are missing, or do not fit the module or what they were at first.
            HistoryError: a client's history cannot be used.
        """
        return cls._of(directory, randomness, module, records, new=False)

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        randomness: Randomness | None = None,
        module: nn.Module | None = None,
        records: Mapping[str, Records] | None = None,
    ) -> Node:
        """Make the records of a node that never had any. A kill in the middle leaves a directory that is refused.

        Raises:
            as :meth:`open`; RecordError also where there are records: what they promise cannot be made anew.
        """
        return cls._of(directory, randomness, module, records, new=True)

    @classmethod
    def _of(
        cls,
        directory: Path,
        randomness: Randomness | None,
        module: nn.Module | None,
        records: Mapping[str, Records] | None,
        *,
        new: bool,
    ) -> Node:
        upgrade(directory)
        return cls(
            NodeDirectory.read(directory),
            randomness=OsRandomness() if randomness is None else randomness,
            module=module,
            records=records,
            new=new,
        )

    def close(self) -> None:
        """Close the records; another process can then open the directory."""
        self._opened.close()

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def parties(self) -> tuple[str, ...]:
        """Names of those hosted here, sorted."""
        return self._files.parties

    def client(self, name: str) -> NodeClient:
        """A client hosted here; private to its operator.

        Raises:
            ArgumentError: there is none of that name.
        """
        if name not in self._clients:
            raise ArgumentError(
                "client", name, f"one of {', '.join(self._clients) or 'none: no client is hosted here'}"
            )
        return self._clients[name]

    def request_privately(self, client: str, request: DeletionRequest) -> None:
        """Queue a deletion that nobody else sees; see :meth:`NodeClient.request_privately`."""
        self.client(client).request_privately(request)

    # Messages

    def handle(self, request: bytes) -> bytes:
        """Answer an encoded :class:`~secure_fu.deployment.exchange.messages.NodeRequest`.

        Returns:
            an encoded :class:`~secure_fu.deployment.exchange.messages.NodeReply`; without answers to what is no
            request.
        """
        try:
            message = decode(NodeRequest, request)
        except SecureFUError as error:
            _LOGGER.warning("not a request: %s", error)
            return encode(NodeReply(answers=()))
        parties = self.parties if message.kind is Kind.HELLO and not message.parties else message.parties
        answers = tuple(self._answer(message.kind, party, message.body_for(at)) for at, party in enumerate(parties))
        return encode(NodeReply(answers=answers))

    def _answer(self, kind: Kind, party: str, body: bytes) -> PartyAnswer:
        machine = self._answers.get(party, {})
        try:
            if kind not in machine:
                hosted = "" if machine else ", who is not here"
                raise ArgumentError(
                    "request", f"{kind.value} to {party!r}{hosted}", "a message for a party of this node"
                )
            return PartyAnswer(party=party, outcome=Outcome.DONE, body=machine[kind](body))
        except UnknownRun as error:
            outcome, reason = Outcome.UNKNOWN_RUN, str(error)
        except (RecordError, HistoryError, DataError) as error:
            outcome, reason = Outcome.FAILED, str(error)
        except AnsweredLater as error:
            outcome, reason = Outcome.AHEAD, f"{error}; the server may have gone back"
        except SecureFUError as error:
            outcome, reason = Outcome.REFUSED, f"{type(error).__name__}: {error}"
        except Exception as error:
            # Its text could hold anything.
            outcome, reason = Outcome.FAILED, type(error).__name__
        level = logging.ERROR if outcome is Outcome.FAILED else logging.WARNING
        why = event(outcome.value, {"party": party, "kind": kind.value, "reason": cleaned(reason)})
        _LOGGER.log(level, "%s to %s: %s (%s)", kind.value, party, outcome.value, reason, extra=why)
        return PartyAnswer(party=party, outcome=outcome, body=b"")

    def _machine(self, name: str, record: ClientRecord | MemberRecord | OpeningRecord) -> dict[Kind, Answer]:
        files, identity = self._files, self._files.identities[name]
        machine: dict[Kind, Answer] = {Kind.HELLO: lambda body: self._hello(name, body)}
        if isinstance(record, ClientRecord):
            client = self._clients[name]
            return machine | {Kind.BEGIN: client.begin, Kind.INVITE: client.invite, Kind.WIPE: client.wipe}
        if isinstance(record, MemberRecord):
            member = Member(identity, roster=files.roster, policy=files.policy, record=record)
            return machine | {Kind.BALLOT: member.vote, Kind.QUORUM: member.answer}
        holder = KeyHolder(
            identity,
            roster=files.roster,
            policy=files.policy,
            scheme=scheme(files.founding.scheme_name),
            record=record,
        )
        return machine | {Kind.ISSUE_KEY: holder.issue_key, Kind.OPEN: holder.open}

    def _hello(self, name: str, body: bytes) -> bytes:
        hello = decode(Hello, body)
        known = parameter_sets_of(self._files.founding.scheme_name)
        answer = HelloAnswer(
            party=name,
            nonce=hello.nonce,
            roster_digest=self._files.roster.digest,
            policy_digest=self._files.policy.digest,
            protocol=PROTOCOL,
            software=version("secure-fu"),
            parameter_sets=tuple(sorted(known & self._files.policy.parameter_sets)),
            signature=bytes(64),
        )
        return encode(answer.signed(self._files.identities[name]))

    # Clients

    def _brought(
        self, module: nn.Module | None, records: Mapping[str, Records] | None
    ) -> tuple[FlatModel, Mapping[str, Records]] | None:
        """The model, and each client's records, checked against each other; None where no client is hosted."""
        files = self._files
        if not files.clients:
            return None
        module = files.module() if module is None else module
        model = FlatModel(module)
        start = files.founding.facts.get("start")
        if start not in (None, ReleasedModel.public(model.vector()).digest.hex()):
            raise ConfigError(
                "node.toml: model", "another start", f"the model that the federation was founded with, {start}"
            )
        brought = self._records(records)
        for name in files.clients:
            check_size(name, brought[name])
            check_fits(module, name, brought[name], file=None if records is not None else files.data[name].path)
        return model, brought

    def _open_clients(
        self,
        own: Mapping[str, ClientRecord | MemberRecord | OpeningRecord],
        brought: tuple[FlatModel, Mapping[str, Records]] | None,
        *,
        handed_in: bool,
        new: bool,
    ) -> None:
        if brought is None:
            return
        files, (model, records) = self._files, brought
        archive = ModelArchive(files.path / "models", dimension=model.dimension)
        for name in files.clients:
            record = own[name]
            assert isinstance(record, ClientRecord)  # noqa: S101 - by role, see _record
            state_file = StateFile(state_path(files.path, name))
            if new:
                state_file.make(ClientState(client=name, records=len(records[name])))
            self._clients[name] = NodeClient(
                files.identities[name],
                files=files,
                record=record,
                state_file=state_file,
                records=records[name],
                data_file=None if handed_in else files.data[name],
                model=model,
                archive=archive,
                prune=lambda: archive.keep_only(
                    digest for client in self._clients.values() for digest in client.models()
                ),
                take_up=self._take_up_requests,
                encryption=self._encryption(),
                randomness=self._randomness,
            )

    def _records(self, given: Mapping[str, Records] | None) -> Mapping[str, Records]:
        files = self._files
        missing = sorted(set(files.clients) - set(files.data if given is None else given))
        if missing:
            raise DataError(
                f"client {missing[0]!r} has no records: node.toml has no [data] for it, and none were given"
            )
        read = {name: files.data[name].read() for name in files.clients} if given is None else given
        for name in files.clients:
            if name not in files.founding.clients:
                raise RecordError(f"client {name!r} is in the roster and not in the federation's own list of clients")
            if files.policy.unit is Unit.GROUP and read[name].groups is None:
                raise DataError(f"client {name!r} has no group column; the federation's privacy unit is the group")
        return read

    def _encryption(self) -> UploadEncryption:
        files = self._files
        if files.founding.scheme_name == KAHE:
            return CommitteeEncryption(roster=files.roster)
        (key_holder,) = files.policy.committee
        return KeyHolderEncryption(
            scheme(files.founding.scheme_name),
            roster=files.roster,
            server=files.policy.server,
            key_holder=key_holder,
        )

    def _take_up_requests(self) -> None:
        """Queue the private requests that were left in the folder; each file goes when its request is written down."""
        for path, left in left_requests(self._files.path / REQUESTS):
            try:
                if isinstance(left, RecordError):
                    raise left
                self.client(left.client).take_left(left)
                destroy_file(path)
            except (SecureFUError, OSError) as error:
                _LOGGER.error("a private request was not taken up: %s", error)


def _record(files: NodeDirectory, name: str, *, new: bool) -> ClientRecord | MemberRecord | OpeningRecord:
    role = files.identities[name].role
    if role is Role.CLIENT:
        return ClientRecord(files.record(name), new=new)
    if role is Role.MEMBER:
        return MemberRecord(files.record(name), new=new)
    return OpeningRecord(files.record(name), new=new)
