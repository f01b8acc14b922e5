"""Words of 54 bits as bytes without a gap: the coefficients of a ciphertext as they travel.

The low 48 bits of every word come first, as 6 little-endian bytes each; then the upper 6 bits, those of four words in 3
bytes. Each sequence of words has one packing, and each byte string of the right length is the packing of one sequence.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["WORD_BITS", "pack", "packed_size", "unpack"]

WORD_BITS: Final = 54


def packed_size(count: int) -> int:
    """Bytes that ``count`` words take; ``count`` is a multiple of 4."""
    return count * WORD_BITS // 8


def pack(words: NDArray[np.uint64]) -> bytes:
    """Pack ``words``: shape (4k,), each below 2^54."""
    octets = words.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)
    upper = octets[:, 6].reshape(-1, 4)
    triples = np.empty((upper.shape[0], 3), dtype=np.uint8)
    triples[:, 0] = upper[:, 0] | upper[:, 1] << 6
    triples[:, 1] = upper[:, 1] >> 2 | upper[:, 2] << 4
    triples[:, 2] = upper[:, 2] >> 4 | upper[:, 3] << 2
    return octets[:, :6].tobytes() + triples.tobytes()


def unpack(data: bytes) -> NDArray[np.uint64]:
    """Return the words, shape (4k,), whose packing is ``data``: 27 k bytes."""
    octets = np.frombuffer(data, dtype=np.uint8)
    count = octets.size * 8 // WORD_BITS
    triples = octets[6 * count :].reshape(-1, 3)
    words = np.zeros((count, 8), dtype=np.uint8)
    words[:, :6] = octets[: 6 * count].reshape(count, 6)
    words[0::4, 6] = triples[:, 0] & 63
    words[1::4, 6] = triples[:, 0] >> 6 | (triples[:, 1] & 15) << 2
    words[2::4, 6] = triples[:, 1] >> 4 | (triples[:, 2] & 3) << 4
    words[3::4, 6] = triples[:, 2] >> 2
    return words.view("<u8").reshape(count).astype(np.uint64, copy=False)
