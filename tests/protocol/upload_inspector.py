"""Judges uploads by all that an experiment may know of them: public parts, keys, vectors, errors, every share.

:func:`p_values` gives for each check a number that an honest client makes as small as alpha or smaller with probability
alpha at most. Ciphertexts count as uniform, as ring-LWE has it. The other bounds hold without assumptions: binomial
tails are exact; a discrete Gaussian is subgaussian with its own sigma, and its square has no heavier tails than the
continuous one's, up to a factor 1 + 2^-1000 at sigma = 6.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from committee_machines import CommitteeMachines, announcement_in
from numpy.typing import NDArray
from scipy import stats

from secure_fu.crypto import CommitteeTerms
from secure_fu.crypto.kahe import Layout, cipher
from secure_fu.crypto.kahe._planes import from_wire
from secure_fu.crypto.sharing import FIELD_PRIME
from secure_fu.crypto.sharing._field import lagrange, lifted
from secure_fu.crypto.sharing.terms import member_points, secret_points
from secure_fu.crypto.wire import decode
from secure_fu.errors import OpeningError
from secure_fu.protocol import CommitteeEncryption, Header
from secure_fu.protocol.committee.layout import layout_of
from secure_fu.protocol.encryption import EncryptedVector
from secure_fu.protocol.header import committee_of
from secure_fu.protocol.messages import Invitation, Upload

__all__ = ["FALSE_ALARM", "Inspected", "InspectedRound", "alarms", "inspected", "p_values"]

FALSE_ALARM = 1e-9
"""How likely :func:`alarms` says anything of honest uploads, at most, over all its checks."""

SIGMA2 = 1024 / 25  # written out: it is what docs and derivations are about, whatever the code draws


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """One upload: its ciphertext and shares, (m, polynomials), and what is in them."""

    client: str
    body: bytes
    values: NDArray[np.int64]
    shares: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class InspectedRound:
    """All uploads of a round."""

    header_digest: bytes
    layout: Layout
    terms: CommitteeTerms
    uploads: tuple[Inspected, ...]


class Watched(CommitteeEncryption):
    """Keeps the vectors that it encrypts."""

    values: dict[str, NDArray[np.int64]]

    def begin(
        self, invitation: Invitation, header: Header, client: str, values: NDArray[np.int64]
    ) -> Callable[[], EncryptedVector]:
        """As the original."""
        self.values = {**getattr(self, "values", {}), client: values.copy()}
        return super().begin(invitation, header, client, values)


def inspected(machines: CommitteeMachines, number: int, *, before: Callable[[bytes], None]) -> InspectedRound:
    """Run a round up to its uploads, open all that is sealed, and give the round up; ``before`` gets its digest."""
    invitation = machines.invited(number)
    announcement = announcement_in(invitation)
    header = decode(Header, announcement.header)
    before(announcement.header_digest)
    watched = Watched(roster=machines.roster)
    for client in machines.clients.values():
        client._encryption = watched
    uploads = {name: decode(Upload, upload) for name, upload in machines.uploads(invitation).items()}
    machines.server.abort("inspected")
    return InspectedRound(
        header_digest=announcement.header_digest,
        layout=layout_of(header),
        terms=committee_of(header),
        uploads=tuple(
            Inspected(
                client=name,
                body=upload.body,
                values=watched.values[name],
                shares=np.stack(
                    [
                        machines.opened_share(announcement, name, box, member).astype(np.int64)
                        for member, box in zip(header.committee, upload.shares, strict=True)
                    ]
                ),
            )
            for name, upload in uploads.items()
        ),
    )


def alarms(rounds: list[InspectedRound]) -> dict[str, float]:
    """The checks that honest uploads fail with probability FALSE_ALARM at most, all together."""
    found = p_values(rounds)
    return {name: p for name, p in found.items() if p < FALSE_ALARM / len(found)}


def p_values(rounds: list[InspectedRound]) -> dict[str, float]:
    """One number a check, by a name whose first word says what was looked at."""
    found: dict[str, float] = {}
    keys: dict[str, NDArray[np.int64]] = {}
    errors: dict[str, NDArray[np.int64]] = {}
    publics: dict[str, NDArray[np.int64]] = {}
    for number, current in enumerate(rounds):
        layout = current.layout
        q, ciphertexts = layout.parameter_set.modulus, {}
        rows = cipher.expand(layout.parameter_set, current.header_digest, layout.blocks).astype(np.int64)
        for block, row in np.ndindex(rows.shape[:2]):
            publics[f"{row} of round {number} block {block}"] = rows[block, row]
            prime = layout.parameter_set.primes[row]
            found[f"a halves {row} of round {number} block {block}"] = _half(rows[block, row], prime // 2 + 1, prime)
        for upload in current.uploads:
            name = f"{upload.client} in round {number}"
            ciphertexts[name] = _integers(layout, upload.body)
            found[f"ciphertext {name}"] = _spread(ciphertexts[name], q)
            for block in range(1, layout.blocks):
                start = block * layout.parameter_set.degree
                later = ciphertexts[name][start : start + layout.parameter_set.degree]
                found[f"blocks 0 and {block} of {name}"] = _spread((later - ciphertexts[name][: later.size]) % q, q)
            key, consistent = _key(upload, current.terms, layout.parameter_set.degree)
            keys[name] = key
            found[f"key {name}"] = _width(key)
            errors[name], opens = _errors(current, upload, key)
            found[f"opening {name}"] = float(consistent and opens)
            found[f"error {name}"] = _width(errors[name])
            found |= {f"{check} of {name}": p for check, p in _shares(upload, current.terms)}
        for (one, a), (two, b) in combinations(ciphertexts.items(), 2):
            found[f"ciphertexts {one} and {two}"] = _spread((a - b) % q, q)
        for one_upload, two_upload in combinations(current.uploads, 2):
            for position in range(current.terms.corrupt):
                name = f"member {position}, {one_upload.client} and {two_upload.client}, round {number}"
                equal = int((one_upload.shares[position] == two_upload.shares[position]).sum())
                found[f"shares {name}"] = _at_least(equal, one_upload.shares.shape[1], 1 / FIELD_PRIME)
    found |= {f"keys {names}": p for names, p in _pairs(keys, _product)}
    found |= {f"errors {names}": p for names, p in _pairs(errors, _product)}
    found |= {f"a twice {names}": p for names, p in _pairs(publics, _repetition)}
    return found


def _pairs(
    vectors: Mapping[str, NDArray[np.int64]], check: Callable[[NDArray[np.int64], NDArray[np.int64]], float]
) -> Iterator[tuple[str, float]]:
    for (one, a), (two, b) in combinations(vectors.items(), 2):
        yield f"{one} and {two}", check(a, b)


def _at_least(count: int, trials: int, p: float) -> float:
    return float(stats.binom.sf(count - 1, trials, p))


def _half(values: NDArray[np.integer], inside: int, size: int) -> float:
    """Both tails: as many of values uniform in [0, size) are below `inside`."""
    count, trials, p = int((values < inside).sum()), values.size, inside / size
    return min(1.0, 2 * min(_at_least(count, trials, p), float(stats.binom.cdf(count, trials, p))))


def _spread(values: NDArray[np.int64], q: int) -> float:
    """Whether uniform residues modulo q are as often within q / 4 of zero: that is where T e + m is, always."""
    quarter = q // 4
    return _half((values + quarter) % q, 2 * quarter + 1, q)


def _integers(layout: Layout, body: bytes) -> NDArray[np.int64]:
    """The coefficients modulo q < 2^63, from their residues modulo one prime or two."""
    primes, found = layout.parameter_set.primes, []
    residues = from_wire(layout, body).astype(np.int64)
    start = 0
    for block in range(layout.blocks):
        n = min(layout.parameter_set.degree, layout.coefficients - block * layout.parameter_set.degree)
        rows = residues[start : start + n * len(primes)].reshape(len(primes), n)
        start += rows.size
        value = rows[0]
        if len(primes) == 2:
            step = (rows[1] - rows[0]) * pow(primes[0], -1, primes[1]) % primes[1]
            value = rows[0] + primes[0] * step
        found.append(value)
    return np.concatenate(found)


def _key(upload: Inspected, terms: CommitteeTerms, degree: int) -> tuple[NDArray[np.int64], bool]:
    """The key that the first t shares give, and whether the other shares are on the same polynomials."""
    points, t = member_points(terms), terms.threshold
    first = upload.shares[:t]
    packed = lifted(lagrange(points[:t], secret_points(terms))[0] @ first % FIELD_PRIME)
    others = lagrange(points[:t], points[t:])[0] @ first % FIELD_PRIME
    flat = packed.T.reshape(-1)
    return flat[:degree], bool((others == upload.shares[t:]).all() and not flat[degree:].any())


def _errors(current: InspectedRound, upload: Inspected, key: NDArray[np.int64]) -> tuple[NDArray[np.int64], bool]:
    try:
        values, errors = cipher._open(current.layout, upload.body, key, seed=current.header_digest, uploads=1)
    except OpeningError:
        return np.zeros(current.layout.coefficients, dtype=np.int64), False
    return errors, np.array_equal(values, upload.values)


def _width(values: NDArray[np.int64]) -> float:
    """Chernoff's bound on both tails of the sum of squares of n Gaussians."""
    x = float((values**2).sum()) / (SIGMA2 * values.size)
    return min(1.0, 2 * math.exp(-values.size / 2 * (x - 1 - math.log(x)))) if x else 0.0


def _product(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Of independent vectors: given b, the inner product is subgaussian with sigma |b|. Zeros say nothing."""
    size = float((b**2).sum())
    return min(1.0, 2 * math.exp(-(float((a * b).sum()) ** 2) / (2 * SIGMA2 * size))) if size else 1.0


def _repetition(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    return _at_least(int((a == b).sum()), a.size, 2.0**-23)


def _shares(upload: Inspected, terms: CommitteeTerms) -> Iterator[tuple[str, float]]:
    polynomials = upload.shares.shape[1]
    quarter = FIELD_PRIME // 4
    for position, share in enumerate(upload.shares):
        yield f"share halves {position}", _half((share + quarter) % FIELD_PRIME, 2 * quarter + 1, FIELD_PRIME)
        # That k draws or more repeat an earlier one: some k of them each hit one of fewer than so many values.
        k = polynomials - np.unique(share).size
        yield f"share repeats {position}", min(1.0, math.comb(polynomials, k) * (polynomials / FIELD_PRIME) ** k)
    t = terms.threshold
    for degree in range(terms.packing, t):  # the coefficient of that degree, for degrees that hide the key
        leading = _coefficient(upload.shares[:t], member_points(terms)[:t], degree)
        yield f"degree {degree}", _at_least(int((leading == 0).sum()), polynomials, 1 / FIELD_PRIME)


def _coefficient(values: NDArray[np.int64], points: NDArray[np.int64], degree: int) -> NDArray[np.int64]:
    """The coefficient of X^degree of the polynomials through these points: solved with the Vandermonde matrix."""
    t = len(points)
    rows = [
        [pow(int(x), k, FIELD_PRIME) for k in range(t)] + [int(i == j) for j in range(t)] for i, x in enumerate(points)
    ]
    for column in range(t):
        pivot = next(row for row in range(column, t) if rows[row][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        inverse = pow(rows[column][column], -1, FIELD_PRIME)
        rows[column] = [value * inverse % FIELD_PRIME for value in rows[column]]
        for row in range(t):
            if row != column and rows[row][column]:
                factor = rows[row][column]
                rows[row] = [(a - factor * b) % FIELD_PRIME for a, b in zip(rows[row], rows[column], strict=True)]
    weights: NDArray[np.int64] = np.array(rows[degree][t:], dtype=np.int64)
    found: NDArray[np.int64] = weights @ values % FIELD_PRIME
    return found
