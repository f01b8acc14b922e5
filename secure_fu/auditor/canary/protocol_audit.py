"""From a canary run to the audit of the protocol: which figures of the run the statistics are given."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from secure_fu.audit.protocol import CanaryObservations, ProtocolAudit, protocol_audit
from secure_fu.audit.protocol_findings import Claim
from secure_fu.auditor.canary.runs import CanaryRun
from secure_fu.protocol import Header
from secure_fu.protocol.header import noise_share_of

__all__ = ["audit_protocol", "claim_of", "noise_of"]


def noise_of(header: Header, uploads: int) -> float:
    """Standard deviation of the noise that so many uploads of a round have together, in clip norms."""
    share = noise_share_of(header)
    return math.sqrt(float(share.sigma_squared) * uploads) * share.step / header.clip_norm


def round_noise(run: CanaryRun, *, without: int = 0) -> NDArray[np.float64]:
    """The same for each round of a run, without the shares of some uploads; shape (rounds,)."""
    return np.array(
        [noise_of(header, int(uploads) - without) for header, uploads in zip(run.headers, run.uploads, strict=True)]
    )


def claim_of(run: CanaryRun) -> Claim:
    """What the ledger says that a canary's unit has paid."""
    return Claim(epsilon=run.claim, delta=run.registration.delta, recomputed=run.recomputed)


def audit_protocol(run: CanaryRun) -> ProtocolAudit:
    """Audit a canary run, from the view of an adversary who knows all but coins, canaries' samples and noise.

    That is the adversary that differential privacy is about; everybody else sees less, see
    :func:`secure_fu.auditor.canary.views.canary_views`.
    """
    clip_norm = run.plan.recipe.clip_norm
    zero_header = run.zero_header
    unknown = run.sums - run.known
    observed = CanaryObservations(
        components=run.directions.scores(unknown) / clip_norm,
        others=run.directions.others(unknown) / clip_norm,
        inserted=run.inserted,
        holders=run.holders,
        holder=run.holder,
        took_part=run.took_part,
        noise=round_noise(run),
        zeros=run.zeros / clip_norm,
        zero_noise=np.array([noise_of(zero_header, int(uploads)) for uploads in run.zero_uploads]),
        zero_required=noise_of(zero_header, noise_share_of(zero_header).assured),
        zero_uploads=run.zero_uploads,
    )
    return protocol_audit(observed, registration=run.registration, claim=claim_of(run))
