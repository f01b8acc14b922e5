"""Known answers of the messages of a round with a committee, and of what a member votes for; see make_vectors.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from round_parts import (
    COMMITTEE,
    IN_ROLL,
    MEMBER,
    announced,
    ballot,
    binding_of,
    boxes,
    entry,
    header,
    header_digest,
    identities,
    member,
    policy,
    rolled,
    roster,
    secrets,
    share_of,
    uploaded,
)

from secure_fu.crypto import CommitteeTerms
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import SecureFUError
from secure_fu.privacy import Budget
from secure_fu.protocol import Header, Policy
from secure_fu.protocol.committee.layout import layout_of
from secure_fu.protocol.committee.messages import Answer, AnswerStatement, Ballot, Quorum, Vote, VoteStatement
from secure_fu.protocol.messages import (
    Approval,
    Domain,
    Release,
    Upload,
    UploadStatement,
    digest,
    shares_digest,
)

__all__ = ["contents", "error_of"]


def error_of(call: Callable[[], object]) -> str:
    """The name of the error that a bad vector raises; a bad vector that raises none is no vector."""
    try:
        call()
    except SecureFUError as error:
        return type(error).__name__
    raise ValueError("a bad vector was accepted")


def _signed(name: str, domain: str, statement: bytes) -> dict[str, str]:
    return {
        "signer": name,
        "domain": domain,
        "statement": statement.hex(),
        "signature": identities()[name].sign(domain, statement).hex(),
    }


def _readable(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return list(value) if isinstance(value, tuple) else value


def _protocol() -> dict[str, Any]:
    upload, roll = uploaded("client-a"), ballot().roll
    vote = decode(Vote, _vote(encode(ballot())))
    answer = _answer()
    release = Release(
        announcement=announced(header()),
        roll=roll,
        values_digest=digest(bytes(48)),
        approvals=(vote.approval, Approval(name="member-b", signature=bytes(64))),
        signature=bytes(64),
    )
    vote_statement = encode(VoteStatement.of(header(), header_digest(), digest(roll.statement)))
    answer_statement = encode(
        AnswerStatement(
            header_digest=header_digest(), roll_digest=digest(roll.statement), share_digest=digest(answer.share)
        )
    )
    upload_statement = encode(
        UploadStatement(
            header_digest=header_digest(),
            client="client-a",
            ciphertext_digest=upload.ciphertext_digest,
            shares_digest=shares_digest(upload.share_digests),
        )
    )
    return {
        "comment": "made by secure_fu; a signature is Ed25519 over 'secure-fu/1/' || domain || 00 || statement",
        "identities": [
            {
                "name": name,
                "role": identity.role.value,
                "signing_secret": secrets(position)[0].hex(),
                "sealing_secret": secrets(position)[1].hex(),
                "verify_key": identity.party.verify_key.hex(),
                "sealing_key_sha256": digest(identity.party.sealing_key).hex(),
            }
            for position, (name, identity) in enumerate(identities().items())
        ],
        "roster_digest": roster().digest.hex(),
        "header": {field.name: _readable(getattr(header(), field.name)) for field in fields(Header)},
        "header_encoded": encode(header()).hex(),
        "header_digest": header_digest().hex(),
        "layout": {
            "comment": "as the header implies it",
            "digits": layout_of(header()).digits,
            "coefficients": layout_of(header()).coefficients,
            "ciphertext_bytes": layout_of(header()).ciphertext_bytes,
        },
        "header_signed": _signed("server", Domain.HEADER, encode(header())),
        "upload": encode(upload).hex(),
        "upload_signed": _signed("client-a", Domain.UPLOAD, upload_statement),
        "share_binding": {
            "comment": "the associated data of client-a's share to member-a, and the plaintext of its recorded box",
            "encoded": binding_of("client-a").hex(),
            "box": boxes()["client-a"].hex(),
            "plaintext": share_of("client-a").hex(),
        },
        "roll_signed": _signed("server", Domain.ROLL, roll.statement),
        "roll_digest": digest(roll.statement).hex(),
        "vote_signed": _signed(MEMBER, Domain.VOTE, vote_statement),
        "vote": encode(vote).hex(),
        "answer_signed": _signed(MEMBER, Domain.ANSWER, answer_statement),
        "answer": encode(answer).hex(),
        "release_signed": _signed("server", Domain.RELEASE, release.statement),
        "bad_uploads": _bad_uploads(encode(upload)),
    }


def _quorum() -> Quorum:
    roll_digest = digest(ballot().roll.statement)
    statement = encode(VoteStatement.of(header(), header_digest(), roll_digest))
    votes = tuple(
        Approval(name=name, signature=identities()[name].sign(Domain.VOTE, statement)) for name in COMMITTEE[:3]
    )
    return Quorum(header_digest=header_digest(), roll_digest=roll_digest, votes=votes)


def _answer() -> Answer:
    return decode(Answer, _answered(encode(_quorum())))


def _bad_uploads(good: bytes) -> list[dict[str, str]]:
    name = good.index(b"client-a") - 4
    cases = [
        ("version 2", good[:3] + b"\2" + good[4:]),
        ("no magic", b"SFV" + good[3:]),
        ("another tag", good.replace(b"\x06upload", b"\x06uplaod", 1)),
        ("a trailing byte", good + b"\0"),
        ("one byte short", good[:-1]),
        ("a name of 4 GiB", good[:name] + b"\xff\xff\xff\xff" + good[name + 4 :]),
        ("a name that is not UTF-8", good.replace(b"client-a", b"client-\xff", 1)),
        ("1025 shares", good.replace((4).to_bytes(4, "big"), (1025).to_bytes(4, "big"), 1)),
        ("more shares than there are bytes", good.replace((4).to_bytes(4, "big"), (1024).to_bytes(4, "big"), 1)),
    ]
    return [
        {"comment": comment, "hex": data.hex(), "error": error_of(lambda d=data: decode(Upload, d))}
        for comment, data in cases
    ]


HEADER_CHANGES: dict[str, Any] = {
    "roster_digest": digest(b"another roster"),
    "committee": ("client-e", *COMMITTEE[1:]),
    "threshold": 3,
    "quorum": 2,
    "corrupt": 0,
    "purpose": "statistic/mean",
    "parameter_set": "kahe-512-12",
    "colluders": 0,
    "minimum_cohort": 2,
    "cohort": ("client-b", "client-a", "client-c", "client-d"),
    "unit": "client",
    "clip_norm": 2.0,
    "noise_multiplier": 1.0,
    "retained_rate": 0.75,
    "saturation": 4.0,
    "grid_step": 0.5,
    "phase": "testing",
    "round_number": 1 << 63,
    "length": 0,
    "digit_bits": 25,
}


def _bad_ballots() -> list[tuple[str, Ballot]]:
    uploads = [uploaded(client) for client in IN_ROLL]
    entries = [entry(upload) for upload in uploads]
    stranger, late = uploaded("client-e"), uploaded("client-c", boxes()["client-c"], digest(b"another header"))
    forged = replace(entries[2], signature=entries[1].signature)
    cases: list[tuple[str, Ballot]] = []
    for name, value in HEADER_CHANGES.items():
        changed = announced(replace(header(), **{name: value}))
        of = changed.header_digest
        roll = rolled([entry(uploaded(client, boxes()[client], of)) for client in IN_ROLL], of=of)
        cases.append((f"a header with {name} {_readable(value)!r}", ballot(changed, roll)))
    rolls = [
        ("a header signed by a client", ballot(announced(header(), by="client-a"))),
        ("a header signed for a roll", ballot(announced(header(), domain=Domain.ROLL))),
        ("a roll of another header", ballot(roll=rolled(entries, of=digest(b"another header")))),
        ("a roll signed by a member", ballot(roll=rolled(entries, by="member-a"))),
        ("a roll signed for a release", ballot(roll=rolled(entries, domain=Domain.RELEASE))),
        ("a roll that is not sorted", ballot(uploads=uploads[::-1])),
        ("a roll with a client twice", ballot(uploads=[uploads[0], *uploads])),
        ("a roll with a client outside the cohort", ballot(uploads=[*uploads, stranger])),
        ("a roll with fewer than the minimum cohort", ballot(uploads=uploads[:2])),
        ("a roll with another client's signature", ballot(roll=rolled([*entries[:2], forged]))),
        ("a roll with an upload to another header", ballot(uploads=[*uploads[:2], late])),
        ("one delivery too few", replace(ballot(), deliveries=ballot().deliveries[:2])),
        ("two boxes swapped", replace(ballot(), deliveries=(*ballot().deliveries[1::-1], ballot().deliveries[2]))),
        (
            "a box that the client did not sign",
            replace(ballot(), deliveries=(*ballot().deliveries[:2], replace(ballot().deliveries[2], box=b"no box"))),
        ),
    ]
    misfits = [
        (f"client-c's share: {name}", ballot(uploads=[*uploads[:2], uploaded("client-c", box)]))
        for name, box in boxes().items()
        if name not in IN_ROLL
    ]
    return [*cases, *rolls, *misfits]


def _bad_ballot(comment: str, bad: Ballot) -> dict[str, Any]:
    """Only the parts in which it differs from the good one; a number is the position of a good delivery."""
    good, parts = ballot(), {}
    if bad.announcement != good.announcement:
        parts["announcement"] = encode(bad.announcement).hex()
    if bad.roll != good.roll:
        parts["roll"] = encode(bad.roll).hex()
    if bad.deliveries != good.deliveries:
        parts["deliveries"] = [
            good.deliveries.index(each) if each in good.deliveries else encode(each).hex() for each in bad.deliveries
        ]
    error = error_of(lambda: _vote(encode(bad)))
    return {"comment": comment} | parts | {"ballot_sha256": digest(encode(bad)).hex(), "error": error}


def _bad_quorums() -> list[dict[str, str]]:
    """Handed to the member after it has voted for the good ballot."""
    quorum = _quorum()
    good, votes = encode(quorum), quorum.votes
    other = replace(votes[0], name="member-d")
    cases = [
        ("version 2", good[:3] + b"\2" + good[4:]),
        ("a trailing byte", good + b"\0"),
        ("one byte short", good[:-1]),
        ("more votes than there are bytes", good.replace((3).to_bytes(4, "big"), (1024).to_bytes(4, "big"), 1)),
        ("one vote too few", encode(replace(quorum, votes=votes[:2]))),
        ("a vote counted twice", encode(replace(quorum, votes=(*votes[:2], votes[1])))),
        ("a client votes", encode(replace(quorum, votes=(*votes[:2], replace(votes[2], name="client-a"))))),
        ("a member's vote under another's name", encode(replace(quorum, votes=(*votes[:2], other)))),
        ("for another roll", encode(replace(quorum, roll_digest=digest(b"another roll")))),
        ("for another header", encode(replace(quorum, header_digest=digest(b"another header")))),
    ]
    return [
        {"comment": comment, "quorum": data.hex(), "error": error_of(lambda d=data: _answered(d))}
        for comment, data in cases
    ]


def _vote(message: bytes) -> bytes:
    with member() as voting:
        return voting.vote(message)


def _answered(quorum: bytes) -> bytes:
    """After a vote for the good ballot."""
    with member() as voting:
        voting.vote(encode(ballot()))
        return voting.answer(quorum)


def contents() -> dict[str, Any]:
    """The files of this module, by name."""
    members = {
        "comment": "made by secure_fu: what member-a, with an empty record and the policy given, does with a ballot",
        "policy": {field.name: _policy_value(getattr(policy(), field.name)) for field in fields(Policy)},
        "good": {
            "comment": "the vote for the ballot, and the answer on the quorum: the sum of the shares of three clients",
            "ballot": encode(ballot()).hex(),
            "vote": _vote(encode(ballot())).hex(),
            "quorum": encode(_quorum()).hex(),
            "answer": encode(_answer()).hex(),
        },
        "bad_ballots": [_bad_ballot(comment, bad) for comment, bad in _bad_ballots()],
        "bad_quorums": _bad_quorums(),
    }
    return {"protocol.json": _protocol(), "members.json": members}


def _policy_value(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, (CommitteeTerms, Budget)):
        return {field.name: _policy_value(getattr(value, field.name)) for field in fields(value)}
    return getattr(value, "value", _readable(value))
