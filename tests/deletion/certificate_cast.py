"""The cast of the certificate tests: a made-up execution, real federations, and a server that lies and signs it."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from small_federations import federation, plan_for

from secure_fu.crypto import Identity, Role, Roster
from secure_fu.crypto.identity_file import read_identities
from secure_fu.crypto.wire import encode
from secure_fu.deletion import DeletionRequest
from secure_fu.deletion.certificates import (
    Accounts,
    Certificate,
    CertificateError,
    Counted,
    Evidence,
    build_certificate,
    check_certificate,
    concerned_clients,
)
from secure_fu.deletion.certificates.accounts import Part, RoundKind
from secure_fu.deletion.certificates.certificate import CERTIFICATE_DOMAIN
from secure_fu.deletion.certificates.order import signed_entry  # noqa: F401
from secure_fu.deletion.certificates.schema import canonical, certificate_text
from secure_fu.deletion.execution import Execution
from secure_fu.deletion.requests import SignedBatch, sign_request
from secure_fu.deletion.wiping import WipeStatement, order_digest, wipe_commitment
from secure_fu.federation.execution_of import before_deletion, execution_of
from secure_fu.learning import mlp
from secure_fu.privacy import GaussianSumEvent, Phase, Subject
from secure_fu.protocol.header import canonical_settings
from secure_fu.protocol.run_id import run_id_of
from secure_fu.unlearning import Rollback, Scrub, settings_of

CLIENTS = ("ada", "bob", "eve")
DELTA = 1e-5
NOW = 1_790_000_000
DAY = 86_400


@functools.cache
def identities():
    """Keys are slow to make: one set serves all tests."""
    roles = {"server": Role.SERVER, **dict.fromkeys(CLIENTS, Role.CLIENT), "stranger": Role.CLIENT}
    return {name: Identity.generate(name, role) for name, role in roles.items()}


@functools.cache
def roster():
    return Roster.of(identities()[name].party for name in ("server", *CLIENTS))


def event(rate=0.5, noise=1.3, dimension=18):
    return GaussianSumEvent(
        noise_multiplier=noise, sampling_rate=rate, grid_ratio=60_000.0, dimension=dimension, shares=2
    )


TRAINING = {"phase": Phase.TRAINING, "released": True, "forgotten": event(), "retained": event()}
BASIS = RoundKind(part=Part.BASIS, **TRAINING)
BEFORE = RoundKind(part=Part.BEFORE, **TRAINING)
OWN = RoundKind(part=Part.DELETION, phase=Phase.UNLEARNING, released=True, forgotten=event(0.25), retained=event(0.5))
RERUN = RoundKind(part=Part.DELETION, phase=Phase.UNLEARNING, released=True, forgotten=None, retained=event())
STORY = ((BASIS, 4, CLIENTS), (BASIS, 2, ("ada", "bob")), (OWN, 3, CLIENTS), (OWN, 1, ("bob", "eve")))
"""Six rounds of training, eve away in two; four of a deletion, ada away in one."""


RERUN_STORY = (*STORY[:2], (BEFORE, 2, CLIENTS), (RERUN, 4, CLIENTS))
"""The same, of which a re-run takes back two more rounds."""


def rounds_of(story=STORY):
    return [(kind, charged) for kind, count, charged in story for _ in range(count)]


def accounts(forgotten=CLIENTS, story=STORY):
    return Accounts.of(rounds_of(story), forgotten=forgotten, retained=CLIENTS)


HEURISTIC = {"kind": "heuristic", "reason": "it steers the model", "adaptive": True}


RUN_KEY = hashlib.sha256(b"run key").digest()


def order_of(asked, *, method="scrub", settings=None, continues_after=0):
    """What clients were told of a batch, as they sign it; 32 bytes."""
    return order_digest(
        window_id=asked.window_id,
        opened=asked.opened,
        method=method,
        settings=canonical_settings({"rounds": 4, "rate": 0.25} if settings is None else settings),
        request_digests=tuple(sorted(one.digest for one in asked.requests)),
        hidden_units=asked.hidden_units,
        continues_after=continues_after,
    )


def execution(own=None, *, asked=None, guarantee=None, units=3, wiped=("ada", "bob"), missing=("eve",), **changes):
    """What a server would know of a window; figures follow from `own`."""
    said = accounts() if own is None else own
    asked = batch() if asked is None else asked
    order, branch = order_of(asked), changes.get("branch", f"unlearn/{asked.window_id.hex()}")
    figures = said.confidentiality(delta=DELTA, group_size=1)
    confidentiality = {name: {"value": v, "delta": DELTA, "group_size": 1} for name, v in figures.items()}
    if units > 1:
        group = said.confidentiality(delta=DELTA, group_size=units)
        confidentiality |= {
            f"{name}_of_group": {"value": v, "delta": DELTA, "group_size": units} for name, v in group.items()
        }
    return Execution(
        **{
            "window_id": asked.window_id,
            "branch": branch,
            "run_id": run_id_of(RUN_KEY, branch, order).hex(),
            "opened": asked.opened,
            "order": order.hex(),
            "run_key": RUN_KEY.hex(),
            "method": "scrub",
            "settings": {"rounds": 4, "rate": 0.25},
            "guarantee": HEURISTIC if guarantee is None else guarantee,
            "confidentiality": confidentiality,
            "unit": "record",
            "group_size": units,
            "model_before": "1" * 64,
            "model_after": "2" * 64,
            "ledger_events": 10,
            "charges": tuple(said.to_json()),
            "epsilon": tuple(
                {
                    "subject": subject.value,
                    "phase": phase.value,
                    "view": "every release",
                    "value": said.epsilon(subject, phase, delta=DELTA, group_size=1),
                    "delta": DELTA,
                    "group_size": 1,
                }
                for subject in Subject
                for phase in Phase
            ),
            "delta": DELTA,
            "transcript_before": "3" * 64,
            "transcript_root": hashlib.sha256(asked.window_id).hexdigest(),
            "rounds": 4,
            "wiped": tuple(encode(statement(name, asked)) for name in wiped),
            "missing": tuple(missing),
            "parameter_sets": ("kahe-8192",),
            "software": {"secure_fu": "0.1.0", "python": "3.11.7"},
            "started": NOW,
            "finished": NOW + 60,
        }
        | changes
    )


def certified(own, *, counted=Counted.BASIS, units=3, **changes):
    """What a re-run guarantees, by the charges."""
    return {
        "kind": "certified",
        "reason": "it goes back",
        "assumptions": ["nothing was chosen late"],
        "adaptive": counted is Counted.EVERYTHING,
        "epsilon": own.forgetting(counted, delta=DELTA, group_size=units),
        "delta": DELTA,
        "group_size": units,
        "view": "every release",
        "counted": counted.value,
        **changes,
    }


def statement(name, asked=None, *, rounds=4, order=None):
    asked = batch() if asked is None else asked
    commitment = wipe_commitment(hashlib.sha256(name.encode()).digest(), b"")
    return WipeStatement.signed(
        identities()[name],
        window_id=asked.window_id,
        order=order_of(asked) if order is None else order,
        rounds=rounds,
        commitment=commitment,
    )


def replace_signature(one, other):
    return replace(one, signature=other.signature)


def replaced(known, **changes):
    return replace(known, **changes)


def request(signer="ada", records=(4321, 8765), *, disclose=False, units=3, **changes):
    return sign_request(
        identities()[signer],
        DeletionRequest.some_records(signer, records),
        roster=roster(),
        units=units,
        **{"submitted": NOW - DAY, "deadline": NOW + DAY, "disclose": disclose} | changes,
    )


def batch(*requests, hidden_units=0, opened=NOW):
    return SignedBatch.of(opened, requests or (request(),), hidden_units)


def certificate(made=None, own=None, **changes):
    """The certificate of a window of signed requests; all clients' charges, unless `own` says whose."""
    asked = batch() if made is None else made
    terms = {
        "identity": identities()["server"],
        "roster": roster(),
        "policy_digest": bytes(32),
        "issued": NOW + 90,
    }
    given = {name: changes.pop(name) for name in ("previous", "audit", *terms) if name in changes}
    known = execution(own, asked=asked, units=asked.units + asked.hidden_units * len(CLIENTS), **changes)
    return Certificate.of(build_certificate(asked, known, **(terms | given)))


def built(asked, known):
    """The certificate of an execution."""
    terms = {"identity": identities()["server"], "roster": roster(), "policy_digest": bytes(32), "issued": NOW + 90}
    return Certificate.of(build_certificate(asked, known, **terms))


def forged(honest, change, identity=None):
    """What a server that lies would sign: the certificate with `change` applied to its body."""
    body = copy.deepcopy(dict(honest.body))
    change(body)
    signer = identities()["server"] if identity is None else identity
    signature = signer.sign(CERTIFICATE_DOMAIN, canonical(body))
    signed = {"algorithm": "Ed25519", "domain": "certificate", "signer": signer.name, "value": signature.hex()}
    return Certificate.of(certificate_text({"certificate": body, "signature": signed}))


def reordered(body):
    """Make order and run id follow from what the body says, as a clever liar would; no client has signed that."""
    digest = order_digest(
        window_id=bytes.fromhex(body["window"]),
        opened=int(datetime.fromisoformat(body["order"]["opened"]).timestamp()),
        method=body["method"]["name"],
        settings=canonical_settings(body["method"]["settings"]),
        request_digests=tuple(
            sorted(bytes.fromhex(one["requester"]["commitment"]) for one in body["asked"]["requests"])
        ),
        hidden_units=body["asked"]["hidden_units"],
        continues_after=body["order"]["continues_after"],
    )
    body["order"]["digest"] = digest.hex()
    run_key = bytes.fromhex(body["order"]["run_key"])
    body["transcript"]["run_id"] = run_id_of(run_key, body["ledger"]["branch"], digest).hex()


def unsigned_change(honest, change):
    """The certificate's text with `change` applied, and its old signature."""
    document = json.loads(honest.content)
    change(document["certificate"])
    return certificate_text(document)


# Real federations


def server_of(directory):
    return read_identities(directory / "identities.bin")["server"]


def executed(federation, directory, request, method, *, adaptive=False, disclose=True, previous=None, **changes):
    """Execute a deletion in a resumable federation and certify it."""
    before = before_deletion(federation, now=NOW)
    unlearned = federation.delete(request, method, adaptive=adaptive)
    known = execution_of(
        federation,
        before,
        transcript=directory / "transcript.jsonl",
        settings=settings_of(method),
        window_id=hashlib.sha256(federation.state.model.digest).digest()[:16],
        concerned=concerned_clients(request, disclose=disclose),
        finished=NOW + 60,
        **changes,
    )
    content = build_certificate(
        request,
        known,
        identity=server_of(directory),
        roster=federation.roster,
        policy_digest=federation.policy.digest,
        issued=NOW + 90,
        previous=previous,
        disclose=disclose,
    )
    return Certificate.of(content), unlearned


REQUEST = DeletionRequest.some_records("silo-1", (0, 3, 7))
FIRST = DeletionRequest.some_records("silo-3", (1, 2))
LATE = {"silo-3": 2}


class Story:
    """A federation that trained, tried something out, deleted twice, trained on; and its certificates."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        vanishing = {(2, "silo-0"), (3, "silo-2"), (6, "silo-0")}
        with federation(
            directory=directory,
            scheme_name="kahe",
            joins=LATE,
            resumable=True,
            vanishes=lambda number, name: (number, name) in vanishing,
            plan=plan_for(mlp(5, (), 3, 0), rounds=5, branch_rounds=14),
        ) as made:
            made.train(rounds=4)
            made.unlearn(FIRST, Scrub(length=1), adaptive=False)
            self.models = [made.state.model]
            self.first, self.outcome = executed(made, directory, FIRST, Rollback())
            self.models.append(made.state.model)
            self.ledger_then = (directory / "ledger.sqlite").stat().st_size
            made.train(rounds=1)
            self.models.append(made.state.model)
            self.second, self.later = executed(
                made,
                directory,
                REQUEST,
                Scrub(length=2),
                adaptive=True,
                disclose=False,
                previous=self.first,
            )
            self.models.append(made.state.model)
            self.roster, self.policy = made.roster, made.policy
        self.identity = server_of(directory)

    def evidence(self, **changes):
        return Evidence(**{"policy": self.policy, "transcript": self.directory / "transcript.jsonl"} | changes)

    def forged(self, one, change):
        return forged(one, change, self.identity)


def checked(story, one, **changes):
    return check_certificate(one, roster=story.roster, evidence=story.evidence(**changes))


def is_refused(story, one, *words, error=CertificateError, **changes):
    with pytest.raises(error) as caught:
        checked(story, one, **changes)
    for word in words:
        assert word in str(caught.value)
