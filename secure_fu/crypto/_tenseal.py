"""The border to TenSEAL: contexts, blocks of 4096 integers, and the words of their ciphertexts.

Neither TenSEAL nor SEAL is given foreign bytes to parse. Fed with garbage, TenSEAL's context reader and SEAL's readers
of compressed objects can abort the process, and TenSEAL's vector reader believes any declared length and reads past its
end. So a ciphertext travels as its coefficients alone, a public key is taken apart here, and what SEAL gets to read is
put together here: everything but the coefficients is a copy of what this SEAL writes itself.
"""

from __future__ import annotations

import importlib
import struct
from typing import Any, Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from secure_fu.errors import CiphertextError, SecretKeyExposedError

__all__ = ["COEFFICIENT_BITS", "DEGREE", "PLAIN_MODULUS", "Tenseal", "Words"]

DEGREE: Final = 4096
"""N: the degree of the ring, and the number of integers in a block."""
PLAIN_MODULUS: Final = 1073692673
"""t: the largest prime of 30 bits that is 1 modulo 2N, so that a ciphertext holds N integers modulo t."""
COEFFICIENT_BITS: Final = (54, 36)
"""Sizes of q, under which ciphertexts live, and of P, SEAL's key-switching prime."""

Words = NDArray[np.uint64]
"""The coefficients of a ciphertext (c0, c1) modulo q: shape (2, DEGREE)."""

_CIPHERTEXT_BYTES: Final = 2 * DEGREE * 8
_PUBLIC_KEY_BYTES: Final = 2 * len(COEFFICIENT_BITS) * DEGREE * 8

# What the bindings raise on arguments that SEAL refuses.
_SEAL_ERRORS: Final = (RuntimeError, ValueError)

# How serialised SEAL objects begin: magic, header size, version, minor version, compression, reserved, total size.
_HEADER: Final = struct.Struct("<HBBBBHQ")
_UNCOMPRESSED: Final = 0

# Field numbers in TenSEAL's containers, which are protocol buffers.
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
        self.ciphertext_modulus: int = context.seal_context().data.first_context_data().total_coeff_modulus()
        fields = dict(_fields(self.public_bytes(context)))
        public = dict(_fields(fields[_PUBLIC]))
        self._parameters = _field(_PARAMETERS, fields[_PARAMETERS])
        # The flags and the scale, which follow the key and are the same for everybody.
        self._public_rest = fields[_PUBLIC][len(_field(_PUBLIC_KEY, public[_PUBLIC_KEY])) :]
        # What SEAL writes in front of the coefficients: parameter identifier, form, sizes.
        self._key_preamble = _inflate(public[_PUBLIC_KEY])[:-_PUBLIC_KEY_BYTES]
        self._header_start = public[_PUBLIC_KEY][:5]
        ciphertext = _inflate(self._seal_ciphertext(context, np.zeros(DEGREE, dtype=np.int64)))
        self._preamble = ciphertext[:-_CIPHERTEXT_BYTES]

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
        """Return the context in which one can encrypt, from :meth:`public_bytes`.

        Raises:
            SecretKeyExposedError: ``data`` holds a secret, relinearisation or Galois key.
            CiphertextError: ``data`` is no serialised context, or of other parameters, or without a valid public key.
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
        if self._container(public_key) != data:
            raise CiphertextError(
                "not a context of this parameter set with a public key and nothing else, as this TenSEAL writes it"
            )
        content = _inflate(public_key)
        if len(content) != len(self._key_preamble) + _PUBLIC_KEY_BYTES or not content.startswith(self._key_preamble):
            raise CiphertextError("the public key is not one of this parameter set")
        try:
            context = self._ts.context_from(self._container(self._seal_object(content)), n_threads=1)
        except _SEAL_ERRORS:
            raise CiphertextError("the public key has a coefficient beyond its modulus") from None
        if context.has_secret_key() or context.has_relin_keys() or context.has_galois_keys():
            raise SecretKeyExposedError("the context holds more than a public key")
        return context

    def encrypt(self, context: Any, values: NDArray[np.int64]) -> Words:
        """Encrypt a block: ``values`` of shape (DEGREE,), each at most (t - 1) / 2 in absolute value."""
        content = _inflate(self._seal_ciphertext(context, values))
        return np.frombuffer(content, dtype="<u8", offset=len(self._preamble)).reshape(2, DEGREE)

    def decrypt(self, context: Any, words: Words) -> NDArray[np.int64]:
        """Decrypt a block with the secret key of ``context``; the inverse of :meth:`encrypt`.

        Args:
            words: shape (2, DEGREE), each below q, ``words[1]`` not all zero.
        """
        return np.array(self._vector(context, words).decrypt(), dtype=np.int64)

    def _vector(self, context: Any, words: Words) -> Any:
        block = self._seal_object(self._preamble + words.astype("<u8", copy=False).tobytes())
        return self._ts.bfv_vector_from(context, _field(_SIZES, _varint(DEGREE)) + _field(_CIPHERTEXTS, block))

    def _seal_ciphertext(self, context: Any, values: NDArray[np.int64]) -> bytes:
        # TenSEAL's Python layer would convert the values twice, which costs a tenth of the encryption.
        serialized: bytes = self._ts._ts_cpp.BFVVector(context.data, values.tolist()).serialize()
        return dict(_fields(serialized))[_CIPHERTEXTS]

    def _seal_object(self, content: bytes) -> bytes:
        """A serialised SEAL object, not compressed."""
        magic, header_size, version, minor = struct.unpack("<HBBB", self._header_start)
        size = header_size + len(content)
        return _HEADER.pack(magic, header_size, version, minor, _UNCOMPRESSED, 0, size) + content

    def _container(self, public_key: bytes) -> bytes:
        """A serialised context with a public key alone."""
        return self._parameters + _field(_PUBLIC, _field(_PUBLIC_KEY, public_key) + self._public_rest)


def _inflate(seal_object: bytes) -> bytes:
    """Return what a SEAL object holds behind its header, decompressed.

    Raises:
        CiphertextError: it is malformed, or longer than the largest object that is ever read here.
    """
    frame = seal_object[_HEADER.size :]
    try:
        # Checked first, because the decompressor allocates what the frame declares.
        if not 0 <= zstandard.frame_content_size(frame) <= _PUBLIC_KEY_BYTES + 1024:
            raise CiphertextError("a SEAL object declares a content of another length than it can have")
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError:
        raise CiphertextError("a SEAL object is malformed") from None


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
