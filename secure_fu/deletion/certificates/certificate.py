"""Deletion certificates: what a server signs when a window of deletions is executed.

A certificate is a signed JSON text (:mod:`secure_fu.deletion.certificates.schema`); each names the hash of the one
before it. :mod:`secure_fu.deletion.certificates.check` checks one from outside, with nothing of the server's word.

What a certificate gives away
    Of a request whose signer wants to be named: name, kind, units and times. Of any other: what kind of thing was to
    go, whether the deadline was met, and a hash that commits to the request, with which whoever has the request can
    show that it is this one, and nobody else can guess it. Requests are sorted by these hashes, so their order tells
    nothing. No certificate holds positions, persons, labels or records, and where one requester is hidden all figures
    are the largest over all clients.
Not hidden
    How many units went in all, as the requests declare them: who wants that hidden declares a round number. And what
    the federation itself shows: who took part in which round, which checkpoint a re-run began with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from secure_fu.crypto import Identity, Role, Roster
from secure_fu.crypto.wire import decode
from secure_fu.deletion.certificates.accounts import Accounts
from secure_fu.deletion.certificates.figures import check_figures
from secure_fu.deletion.certificates.order import check_asked, check_order, signed_entry
from secure_fu.deletion.certificates.schema import (
    MAX_CERTIFICATE_BYTES,
    SCHEMA_NAME,
    CertificateError,
    canonical,
    certificate_text,
    check_shape,
    parse_certificate,
)
from secure_fu.deletion.execution import Execution
from secure_fu.deletion.requests import DeletionBatch, DeletionRequest, SignedBatch
from secure_fu.deletion.times import time_text
from secure_fu.deletion.wiping import WipeStatement
from secure_fu.errors import ArgumentError, CryptoError

__all__ = [
    "CERTIFICATE_DOMAIN",
    "START",
    "Certificate",
    "build_certificate",
    "concerned_clients",
    "read_certificate",
]

CERTIFICATE_DOMAIN: Final = "certificate"
START: Final = bytes(32).hex()
"""What the first certificate names as the one before it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Certificate:
    """A certificate that has been read, as far as its form goes; :meth:`check_signature` says whether it is genuine.

    Attributes:
        content: the bytes of its file.
        body: what is signed.
        signer: name of the server that signed, it says.
        signature: 64 bytes.
    """

    content: bytes
    body: Mapping[str, Any]
    signer: str
    signature: bytes

    @classmethod
    def of(cls, content: bytes) -> Certificate:
        """Read the text of a certificate.

        Raises:
            CertificateError: it is none, or not in the one form that certificates have.
        """
        document = parse_certificate(content)
        signed = document["signature"]
        return cls(
            content=content,
            body=document["certificate"],
            signer=signed["signer"],
            signature=bytes.fromhex(signed["value"]),
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 of the file, 32 bytes: what the next certificate names."""
        return hashlib.sha256(self.content).digest()

    def check_signature(self, roster: Roster) -> None:
        """Return only if the roster's server signed it.

        Raises:
            CertificateError: it did not, or another roster counts.
        """
        if self.body["roster"] != roster.digest.hex():
            raise CertificateError(
                f"it is of a federation with roster {self.body['roster']}, not the one given, {roster.digest.hex()}"
            )
        servers = roster.names(Role.SERVER)
        if len(servers) != 1 or not servers[0] == self.signer == self.body["server"]:
            raise CertificateError(f"it is signed by {self.signer!r}; expected the roster's server, {servers}")
        try:
            roster.verify(self.signer, Role.SERVER, CERTIFICATE_DOMAIN, canonical(self.body), self.signature)
        except CryptoError as error:
            raise CertificateError(
                f"the certificate is not what {self.signer!r} signed, it was edited or forged: {error}"
            ) from None


def read_certificate(path: Path) -> Certificate:
    """Read a certificate's file; no more of it than a certificate can be long.

    Raises:
        CertificateError: it cannot be read, or is no certificate; names the file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CERTIFICATE_BYTES + 1)
        return Certificate.of(content)
    except (OSError, CertificateError) as error:
        raise CertificateError(f"{path}: {error}") from None


def build_certificate(
    batch: SignedBatch | DeletionBatch | DeletionRequest,
    execution: Execution,
    *,
    identity: Identity,
    roster: Roster,
    policy_digest: bytes,
    issued: int,
    previous: Certificate | None = None,
    audit: tuple[Mapping[str, Any], bytes] | None = None,
    disclose: bool = False,
) -> bytes:
    """Make and sign the certificate of an executed window.

    Formal guarantees:
        What it says adds up: figures that a checker would find too small, or statements of clients that did not sign
        them, are refused here. It is a function of its arguments: the same window gives the same bytes again.

    Args:
        batch: that was executed.
        execution: what is known of it.
        identity: the server's.
        roster: of the federation.
        policy_digest: of its policy, 32 bytes; see :attr:`secure_fu.protocol.Policy.digest`.
        issued: now, in seconds since 1970 (UTC).
        previous: the certificate before this one; None for the first.
        audit: a decoded `audit.json` of this federation's configuration, and the bytes of its file; None where no audit
            was run.
        disclose: of requests without a signature, whether the client that they name is named; signed ones say it
            themselves.

    Returns:
        the content of its file.

    Raises:
        ArgumentError: an argument does not fit the others.
        CertificateError: what it would say does not add up.
    """
    accounts = Accounts.from_json(execution.charges)
    if concerned_clients(batch, disclose=disclose) is None and accounts.forgotten != accounts.retained:
        raise ArgumentError(
            "execution", "charges of the clients concerned", "charges of all clients, for somebody is not named"
        )
    if isinstance(batch, SignedBatch) and batch.window_id != execution.window_id:
        raise ArgumentError("execution", execution.window_id.hex(), f"the batch's window, {batch.window_id.hex()}")
    if isinstance(batch, SignedBatch) is not bool(execution.order):
        raise ArgumentError("execution.order", execution.order, "that of a batch of signed requests, and of no other")
    if isinstance(batch, SignedBatch) and execution.group_size < batch.units:
        raise ArgumentError("execution.group_size", execution.group_size, f"at least the batch's {batch.units} units")
    body = {
        "schema": SCHEMA_NAME,
        "number": 1 if previous is None else previous.body["number"] + 1,
        "previous": START if previous is None else previous.digest.hex(),
        "window": execution.window_id.hex(),
        "server": identity.name,
        "roster": roster.digest.hex(),
        "policy": policy_digest.hex(),
        "times": {
            "started": time_text(execution.started),
            "finished": time_text(execution.finished),
            "issued": time_text(issued),
        },
        "order": None
        if not execution.order
        else {
            "digest": execution.order,
            "opened": time_text(execution.opened),
            "run_key": execution.run_key,
            "continues_after": execution.continues_after,
        },
        "asked": {
            "signed": isinstance(batch, SignedBatch),
            "requests": _requests(batch, execution, disclose),
            "hidden_units": batch.hidden_units if isinstance(batch, SignedBatch) else 0,
            "units": execution.group_size,
        },
        "method": {"name": execution.method, "settings": dict(execution.settings)},
        "model": {"before": execution.model_before, "after": execution.model_after},
        "forgetting": _guarantee(execution.guarantee),
        "confidentiality": _confidentiality(execution.confidentiality),
        "epsilon": [dict(entry) for entry in execution.epsilon],
        "accounting": {
            "unit": execution.unit,
            "delta": execution.delta,
            "rounds": [dict(charge) for charge in execution.charges],
            "basis": [dict(entry) for entry in _sequence(execution.guarantee.get("basis", ()))],
        },
        "ledger": {"branch": execution.branch, "events": execution.ledger_events},
        "transcript": {
            "run_id": execution.run_id,
            "before": execution.transcript_before,
            "root": execution.transcript_root,
            "rounds": execution.rounds,
        },
        "wiped": _wiped(execution, roster),
        "unconfirmed": sorted(execution.missing),
        "audit": None if audit is None else _audit(*audit, method=execution.method),
        "software": dict(execution.software),
        "parameter_sets": sorted(execution.parameter_sets),
    }
    signature = identity.sign(CERTIFICATE_DOMAIN, canonical(body))
    document = {
        "certificate": body,
        "signature": {
            "algorithm": "Ed25519",
            "domain": CERTIFICATE_DOMAIN,
            "signer": identity.name,
            "value": signature.hex(),
        },
    }
    check_shape(document)
    check_figures(body)
    check_asked(body)
    check_order(body)
    content = certificate_text(document)
    Certificate.of(content).check_signature(roster)
    return content


def concerned_clients(
    batch: SignedBatch | DeletionBatch | DeletionRequest, *, disclose: bool = False
) -> frozenset[str] | None:
    """The clients whose charges a certificate may speak of as those of the units to be forgotten.

    Args:
        batch: that is executed.
        disclose: see :func:`build_certificate`.

    Returns:
        their names; None for all clients alike: somebody is hidden, or where the units are is not to be told.
    """
    named = _disclosed(batch, disclose)
    return None if None in named or not named else frozenset(name for name in named if name is not None)


def _disclosed(batch: SignedBatch | DeletionBatch | DeletionRequest, disclose: bool) -> list[str | None]:
    """For each request, and for hidden units, the one client concerned; None where it is not to be told."""
    if isinstance(batch, SignedBatch):
        hidden: list[str | None] = [None] if batch.hidden_units else []
        return hidden + [(request.client or None) if request.disclose else None for request in batch.requests]
    requests = batch.requests if isinstance(batch, DeletionBatch) else (batch,)
    return [request.client if disclose else None for request in requests]


def _requests(
    batch: SignedBatch | DeletionBatch | DeletionRequest, execution: Execution, disclose: bool
) -> list[dict[str, Any]]:
    if isinstance(batch, SignedBatch):
        found = [signed_entry(request, finished=time_text(execution.finished)) for request in batch.requests]
        return sorted(found, key=lambda entry: str(entry["requester"]["commitment"]))
    requests = batch.requests if isinstance(batch, DeletionBatch) else (batch,)
    entries: list[dict[str, Any]] = [
        {
            "request_id": None,
            "scope": request.scope.value,
            "requester": {"name": request.client if disclose else None, "commitment": None},
            "client": request.client if disclose else None,
            "units": None,
            "submitted": None,
            "deadline": None,
            "deadline_met": None,
        }
        for request in requests
    ]
    return sorted(entries, key=lambda entry: (entry["scope"], entry["requester"]["name"] or ""))


def _guarantee(said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": said["kind"],
        "reason": said["reason"],
        "assumptions": list(said.get("assumptions", ())),
        "adaptive": said["adaptive"],
        **{
            name: said.get(name)
            for name in ("epsilon", "delta", "group_size", "view", "counted", "shift", "output_noise")
        },
    }


def _confidentiality(said: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    names = ("phase", "pair", "who_asked")
    group = {name: dict(said[f"{name}_of_group"]) for name in names} if "phase_of_group" in said else None
    return {**{name: dict(said[name]) for name in names}, "group": group}


def _wiped(execution: Execution, roster: Roster) -> list[dict[str, Any]]:
    statements = [decode(WipeStatement, content) for content in execution.wiped]
    for statement in statements:
        if statement.window_id != execution.window_id:
            raise ArgumentError("execution.wiped", statement.window_id.hex(), f"window {execution.window_id.hex()}")
        if statement.order.hex() != execution.order:
            raise ArgumentError("execution.wiped", f"order {statement.order.hex()}", f"order {execution.order}")
        statement.check(roster)
    return [
        {
            "client": one.client,
            "rounds": one.rounds,
            "commitment": one.commitment.hex(),
            "signature": one.signature.hex(),
        }
        for one in sorted(statements, key=lambda one: one.client)
    ]


def _audit(audit: Mapping[str, Any], content: bytes, *, method: str) -> dict[str, Any]:
    """The words of an audit, and none of its figures of single records."""
    try:
        deletion = audit.get("deletion")
        rows = [] if deletion is None else [row for row in deletion["rows"] if row["name"] == method]
        return {
            "sha256": hashlib.sha256(content).hexdigest(),
            "created": audit["created"],
            "complete": audit["complete"],
            "quick": audit["source"].get("quick") or False,
            "source": audit["source"]["name"],
            "outcome": audit["verdict"]["outcome"],
            "sentences": list(audit["verdict"]["sentences"]),
            "method": None
            if not rows
            else {"outcome": rows[0]["verdict"]["outcome"], "sentence": rows[0]["verdict"]["sentence"]},
            "assumptions": list(audit["assumptions"]),
            "not_seen": list(audit["not_seen"]),
            "insecure": list(audit["insecure"]),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ArgumentError("audit", type(error).__name__, f"a decoded audit.json ({error})") from None


def _sequence(value: object) -> Iterable[Mapping[str, Any]]:
    return value if isinstance(value, (list, tuple)) else ()
