"""How bytes travel in Flower's messages: one record with one array of bytes, and nothing beside it."""

from __future__ import annotations

from typing import Final

from flwr.app import Array, ArrayRecord, RecordDict

from secure_fu.errors import WireError

__all__ = ["ACTION", "MESSAGE_TYPE", "pack", "unpack"]

ACTION: Final = "secure_fu"  # Flower wants an identifier here
MESSAGE_TYPE: Final = f"query.{ACTION}"

_RECORD: Final = "secure-fu"
_ARRAY: Final = "body"
_SERIALISATION: Final = "secure-fu.bytes"


def pack(body: bytes) -> RecordDict:
    """The content of a message that carries these bytes. An array, for Flower cuts those into pieces on the wire."""
    array = Array(dtype="uint8", shape=(len(body),), stype=_SERIALISATION, data=body)
    return RecordDict({_RECORD: ArrayRecord({_ARRAY: array})})


def unpack(content: RecordDict) -> bytes:
    """The bytes that a message's content carries.

    Raises:
        WireError: it is anything else than what :func:`pack` makes.
    """
    record = content.get(_RECORD)
    if len(content) != 1 or not isinstance(record, ArrayRecord) or len(record) != 1:
        raise WireError("the message is not one record of secure_fu")
    array = record.get(_ARRAY)
    if array is None or array.stype != _SERIALISATION or array.dtype != "uint8" or array.shape != (len(array.data),):
        raise WireError("the message's record does not hold bytes of secure_fu")
    return bytes(array.data)
