"""The border to TenSEAL: contexts, blocks of 4096 integers, and the bytes between them and us.

TenSEAL's own containers (protocol buffers) are never parsed from foreign bytes: fed with garbage, its context reader
can abort the process, and its vector reader believes any declared length and reads past the ciphertext. So only the
SEAL objects inside travel as they are (SEAL checks them against the parameters), and the containers around them are
rebuilt here.
"""

from __future__ import annotations

import importlib
import struct
from typing import Any, Final

from secure_fu.errors import CiphertextError, SecretKeyExposedError

__all__ = ["COEFFICIENT_BITS", "DEGREE", "MAX_BLOCK_BYTES", "PLAIN_MODULUS", "Tenseal"]

DEGREE: Final = 4096
"""N: the degree of the ring, and the number of integers in a block."""
PLAIN_MODULUS: Final = 1073692673
"""t: the largest prime of 30 bits that is 1 modulo 2N, so that a ciphertext holds N integers modulo t."""
COEFFICIENT_BITS: Final = (54, 36)
"""Sizes of q, under which ciphertexts live, and of P, SEAL's key-switching prime."""

# Two polynomials of N 64-bit words, SEAL's fields, and room for the frame of the compression.
MAX_BLOCK_BYTES: Final = 2 * DEGREE * 8 + 512

# What SEAL and its bindings raise on bytes that they cannot use.
_SEAL_ERRORS: Final = (RuntimeError, ValueError, IndexError, OverflowError, MemoryError)

_SEAL_HEADER: Final = struct.Struct("<HBBBBHQ")  # magic, header size, version, minor, compression, reserved, total size
_SEAL_MAGIC: Final = 0xA15E
# Field numbers in TenSEAL's containers.
_PARAMETERS, _PUBLIC, _PRIVATE = 1, 2, 3
_PUBLIC_KEY, _RELIN_KEYS, _GALOIS_KEYS = 1, 4, 5
_SIZES, _CIPHERTEXTS = 1, 2


class Tenseal:
    """TenSEAL, imported on construction, with one fixed parameter set. Holds no key.

    Attributes:
        ciphertext_modulus: q, the prime that SEAL chose.
    """

    def __init__(self) -> None:
        self._ts: Any = importlib.import_module("tenseal")
        context = self.new_context()
        seal_context = context.seal_context().data
        self.ciphertext_modulus: int = seal_context.first_context_data().total_coeff_modulus()
        # Both identifiers are SEAL's hashes over the whole parameter set.
        self._key_level = seal_context.key_parms_id()
        self._data_level = seal_context.first_parms_id()
        # A container with our parameters and no key; the fields of its public part that are not keys (flags, scale) are
        # the same for everybody.
        fields = dict(_fields(context.serialize(False, False, False, False)))
        self._parameters = _field(_PARAMETERS, fields[_PARAMETERS])
        self._public_rest = fields[_PUBLIC]

    def new_context(self) -> Any:
        """Return a fresh context with secret, public and relinearisation keys; only :meth:`public_bytes` may travel."""
        return self._ts.context(
            self._ts.SCHEME_TYPE.BFV,
            poly_modulus_degree=DEGREE,
            plain_modulus=PLAIN_MODULUS,
            coeff_mod_bit_sizes=list(COEFFICIENT_BITS),
            n_threads=1,  # more only ever wait for each other on one block
        )

    def public_bytes(self, context: Any) -> bytes:
        """Return the serialised context with the public key alone."""
        data: bytes = context.serialize(
            save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
        )
        return data

    def public_context(self, data: bytes) -> Any:
        """Return the context in which one can encrypt and add, from :meth:`public_bytes`.

        Raises:
            SecretKeyExposedError: ``data`` holds a secret, relinearisation or Galois key.
            CiphertextError: ``data`` is no serialised context, or one of other parameters, or without a valid public
                key.
        """
        fields = _fields(data)
        if any(number == _PRIVATE for number, _ in fields):
            raise SecretKeyExposedError("the context holds a secret key; burn this key and make a fresh one")
        public = [field for number, content in fields if number == _PUBLIC for field in _fields(content)]
        if any(number in (_RELIN_KEYS, _GALOIS_KEYS) for number, _ in public):
            raise SecretKeyExposedError(
                "the context holds relinearisation or Galois keys; only the public key may travel"
            )
        public_key = next((content for number, content in public if number == _PUBLIC_KEY), b"")
        rebuilt = self._parameters + _field(_PUBLIC, _field(_PUBLIC_KEY, public_key) + self._public_rest)
        if rebuilt != data:
            raise CiphertextError(
                "not a context of this parameter set with a public key and nothing else, as this TenSEAL writes it"
            )
        _check_seal_header(public_key)
        try:
            context = self._ts.context_from(rebuilt, n_threads=1)
        except _SEAL_ERRORS:
            raise CiphertextError("the public key is not a valid one of this parameter set") from None
        if context.has_secret_key() or context.has_relin_keys() or context.has_galois_keys():
            raise SecretKeyExposedError("the context holds more than a public key")
        if not context.has_public_key() or context.seal_context().data.key_parms_id() != self._key_level:
            raise CiphertextError("the context has no public key of this parameter set")
        return context

    def encrypt_block(self, context: Any, values: Any) -> bytes:
        """Encrypt ``DEGREE`` integers; returns one serialised SEAL ciphertext."""
        return self.block_bytes(self._ts.bfv_vector(context, values))

    def block_bytes(self, vector: Any) -> bytes:
        """Return the SEAL ciphertext of a TenSEAL vector, without TenSEAL's container."""
        serialized: bytes = vector.serialize()
        return dict(_fields(serialized))[_CIPHERTEXTS]

    def load_block(self, context: Any, block: bytes) -> Any:
        """Return the vector of ``DEGREE`` integers that a SEAL ciphertext holds.

        Raises:
            CiphertextError: ``block`` is not a ciphertext of this parameter set with two polynomials, in coefficient
                form, at the level of fresh ciphertexts, with a mask.
        """
        _check_seal_header(block)
        container = _field(_SIZES, _varint(DEGREE)) + _field(_CIPHERTEXTS, block)
        try:
            vector = self._ts.bfv_vector_from(context, container)
            (ciphertext,) = vector.ciphertext()
        except _SEAL_ERRORS:
            raise CiphertextError("a block is not a valid ciphertext of this parameter set") from None
        if ciphertext.parms_id() != self._data_level:
            raise CiphertextError("a block is not at the level of fresh ciphertexts")
        if ciphertext.size() != 2:
            raise CiphertextError(f"a block has {ciphertext.size()} polynomials, not 2")
        if ciphertext.is_ntt_form():
            raise CiphertextError("a block is in NTT form, not in coefficient form")
        if ciphertext.is_transparent():
            raise CiphertextError("a block is transparent: it shows its content to everybody")
        return vector


def _check_seal_header(data: bytes) -> None:
    """Refuse bytes that are not one SEAL object of their full length: SEAL itself would ignore what is left over."""
    if len(data) < _SEAL_HEADER.size:
        raise CiphertextError("a SEAL object is truncated")
    magic, header_size, _, _, _, _, size = _SEAL_HEADER.unpack_from(data)
    if magic != _SEAL_MAGIC or header_size != _SEAL_HEADER.size or size != len(data):
        raise CiphertextError("a SEAL object is malformed or of another length than it declares")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _read_varint(data: bytes, start: int) -> tuple[int, int]:
    value = shift = 0
    while start < len(data) and shift < 64:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
    raise CiphertextError("a TenSEAL container is malformed")


def _fields(data: bytes) -> list[tuple[int, bytes]]:
    """The fields of a protocol buffer as (number, content); the content of a varint is left out.

    Raises:
        CiphertextError: ``data`` is no protocol buffer.
    """
    found = []
    start = 0
    while start < len(data):
        key, start = _read_varint(data, start)
        kind = key & 7
        if kind == 0:
            _, end = _read_varint(data, start)
            start = end
        elif kind in (1, 2, 5):
            size, start = _read_varint(data, start) if kind == 2 else ({1: 8, 5: 4}[kind], start)
            end = start + size
        else:
            end = len(data) + 1
        if end > len(data):
            raise CiphertextError("a TenSEAL container is malformed")
        found.append((key >> 3, data[start:end]))
        start = end
    return found
