"""What committee members who pool their shares with the server can read from one upload: they really try.

Fewer members than the threshold fill in the shares that they lack, on the polynomials of lowest degree through their
own (which opens uploads of clients that left the random part out) and at random; they recover a key from them, and try
to open the upload. A key that is wrong fails the key confirmation, so that what they are left with is the ciphertext,
and guesses about canaries made from that. A threshold of members does open it, which shows that the attempt is real.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_fu.auditor.canary.runs import CanaryRun
from secure_fu.auditor.canary.tapped_parties import CapturedUpload
from secure_fu.crypto import Identity
from secure_fu.crypto.kahe import open_sum
from secure_fu.crypto.sharing import FIELD_PRIME, decode_share, recover_key
from secure_fu.crypto.wire import encode
from secure_fu.errors import ArgumentError, OpeningError
from secure_fu.privacy.statistics import Interval, auc
from secure_fu.protocol.committee.layout import layout_of
from secure_fu.protocol.committee.messages import ShareBinding
from secure_fu.protocol.header import committee_of, grid_of
from secure_fu.scheme_names import KAHE

__all__ = ["CommitteeAttempt", "committee_attempt"]

_TRIES = 4


@dataclass(frozen=True, kw_only=True)
class CommitteeAttempt:
    """What came of an attempt.

    Attributes:
        members: that pooled their shares.
        threshold: members that it takes to open.
        uploads: that were tried.
        opened: of them.
        correlation: of what they read with what the client encrypted, over all coordinates; 1 where they opened it.
        correlation_by_chance: what 99 of 100 guesses without any knowledge stay below.
        guessing: area under the ROC curve of guesses about the canaries' coins from what they read; 1/2 is a coin toss.
            From 0 to 1 if the captured uploads hold canaries of one coin only.
    """

    members: int
    threshold: int
    uploads: int
    opened: int
    correlation: float
    correlation_by_chance: float
    guessing: Interval

    def to_json(self) -> dict[str, object]:
        """As ``audit.json`` carries it."""
        return {
            "members": self.members,
            "threshold": self.threshold,
            "uploads": self.uploads,
            "opened": self.opened,
            "correlation": self.correlation,
            "correlation_by_chance": self.correlation_by_chance,
            "guessing": self.guessing.to_json(),
        }


def committee_attempt(run: CanaryRun, *, members: int) -> CommitteeAttempt:
    """Let so many members and the server try to read the captured uploads of a run.

    Args:
        members: from 0, the server alone, to the committee's threshold.

    Raises:
        ArgumentError: the run had no committee, or more members than the threshold.
    """
    if run.scheme_name != KAHE or not run.captured:
        raise ArgumentError("run", run.scheme_name, "a run with a committee, that is with scheme kahe")
    if not 0 <= members <= len(run.members):
        raise ArgumentError("members", members, f"0 to {len(run.members)}, the committee's threshold")
    pooled = dict(list(run.members.items())[:members])
    generator = np.random.default_rng()
    scores: list[NDArray[np.float64]] = []
    coins: list[NDArray[np.bool_]] = []
    read, true = [], []
    opened = 0
    for upload in run.captured:
        values, is_open = _read(upload, pooled, generator)
        opened += is_open
        vector = grid_of(upload.header).decode(values, seed=upload.header_digest)
        held = np.flatnonzero(run.holder == run.holders.index(upload.client))
        components = run.directions.scores(vector)
        # In the scale of this upload's own directions, so that uploads that were read and others can be put together.
        scores.append(components[held] / components.std())
        coins.append(run.inserted[held])
        read.append(values)
        true.append(upload.values)
    score, coin = np.concatenate(scores), np.concatenate(coins)
    both = bool(coin.any()) and not coin.all()
    first, second = np.concatenate(read).astype(np.float64), np.concatenate(true).astype(np.float64)
    return CommitteeAttempt(
        members=members,
        threshold=len(run.members),
        uploads=len(run.captured),
        opened=opened,
        correlation=float(np.corrcoef(first, second)[0, 1]),
        correlation_by_chance=2.58 / float(np.sqrt(first.size)),
        guessing=auc(score[coin], score[~coin]) if both else Interval(value=0.5, low=0.0, high=1.0),
    )


def _read(
    upload: CapturedUpload, pooled: dict[str, Identity], generator: np.random.Generator
) -> tuple[NDArray[np.int64], bool]:
    """The integers that they read, and whether the upload is open."""
    layout, terms = layout_of(upload.header), committee_of(upload.header)

    def opens(key: NDArray[np.int64]) -> NDArray[np.int64]:
        return open_sum(layout, upload.body, key, seed=upload.header_digest, uploads=1)

    for answers in _answers(upload, pooled, generator):
        try:
            values: NDArray[np.int64] = recover_key(
                answers,
                terms,
                length=layout.parameter_set.degree,
                bound=layout.key_bound(1),
                accept=opens,
            ).value
        except OpeningError:
            continue
        return values, True
    # The low words of the ciphertext's residues: coordinate j sits in coefficient j modulo the number of them.
    block = min(layout.parameter_set.degree, layout.coefficients)
    words = np.frombuffer(upload.body[: 2 * block], dtype="<u2").astype(np.int64) - (1 << 15)
    return np.resize(words, layout.length), False


def _answers(
    upload: CapturedUpload, pooled: dict[str, Identity], generator: np.random.Generator
) -> Iterator[dict[int, NDArray[np.uint16]]]:
    """The members' shares, opened with their keys, and in place of those that are missing made-up ones."""
    layout, terms = layout_of(upload.header), committee_of(upload.header)
    degree = layout.parameter_set.degree
    own = {}
    for member, identity in pooled.items():
        place = upload.header.committee.index(member)
        binding = ShareBinding(header_digest=upload.header_digest, client=upload.client, member=member)
        share = identity.unseal(upload.shares[place], associated_data=encode(binding))
        own[place] = decode_share(share, terms=terms, degree=degree)
    missing = [place for place in range(terms.members) if place not in own][: max(0, terms.threshold - len(own))]
    yield {**own, **_extrapolated(own, missing)}
    for _ in range(_TRIES if missing else 0):
        made_up = {
            place: generator.integers(0, FIELD_PRIME, terms.share_length(degree)).astype(np.uint16) for place in missing
        }
        yield {**own, **made_up}


def _extrapolated(own: dict[int, NDArray[np.uint16]], missing: list[int]) -> dict[int, NDArray[np.uint16]]:
    """The missing shares on the polynomials of lowest degree through the others; member k's point is k + 1."""
    filled = {}
    for target in missing if own else ():
        total = np.zeros_like(next(iter(own.values())), dtype=np.int64)
        for place, share in own.items():
            weight = 1
            for other in own:
                if other != place:
                    weight = weight * (target - other) * pow(place - other, -1, FIELD_PRIME) % FIELD_PRIME
            total = (total + weight * share.astype(np.int64)) % FIELD_PRIME
        filled[target] = total.astype(np.uint16)
    return filled
