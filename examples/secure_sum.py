"""A secure sum by hand: clients encrypt under keys of their own, a committee opens only the sum. No server, no network.

The protocol around it (who signs what, who votes on which sum) is docs/protocol.md; do not build on these parts without
it.
"""

from __future__ import annotations

import os

import numpy as np

from secure_fu.crypto import CommitteeTerms, SecureStream
from secure_fu.crypto.kahe import PARAMETER_SETS, CiphertextSum, ClientKey, choose_layout, open_sum
from secure_fu.crypto.sharing import ShareSum, recover_key, share_key

CLIENTS, LENGTH, LARGEST = 20, 10_000, 1_000


def main() -> None:
    """Sum twenty vectors with a committee of ten, of whom three are away."""
    terms = CommitteeTerms(members=10, threshold=7, quorum=7, corrupt=3)
    layout = choose_layout(
        length=LENGTH,
        clients=CLIENTS,
        magnitude=CLIENTS * LARGEST,
        share_bytes=lambda degree: terms.members * terms.share_bytes(degree),
        allowed=PARAMETER_SETS,
    )
    seed = os.urandom(32)  # in a federation: the hash of the round's signed header

    vectors = np.random.default_rng(0).integers(-LARGEST, LARGEST, size=(CLIENTS, LENGTH), endpoint=True)
    total = CiphertextSum(layout)
    members = [ShareSum(terms, degree=layout.parameter_set.degree) for _ in range(terms.members)]
    for vector in vectors:
        key = ClientKey.generate(layout)
        for member, share in zip(members, share_key(key.coefficients, terms, stream=SecureStream()), strict=True):
            member.add(share)
        total.add(key.encrypt(vector, seed=seed))

    recovered = recover_key(
        {position: members[position].total() for position in range(terms.threshold)},
        terms,
        length=layout.parameter_set.degree,
        bound=layout.key_bound(CLIENTS),
        accept=lambda key: open_sum(layout, total.total(), key, seed=seed, uploads=CLIENTS),
    )
    right = bool((recovered.value == vectors.sum(axis=0)).all())
    print(f"{layout.parameter_set.name}: {layout.ciphertext_bytes / LENGTH:.2f} bytes a number")
    print(f"the sum is right: {right}")


if __name__ == "__main__":
    main()
