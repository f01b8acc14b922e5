"""The wire format: declarative, versioned, length-prefixed, with one encoding for each message.

A message is a frozen dataclass whose fields say how they travel::

    @message("greeting")
    @dataclass(frozen=True, kw_only=True)
    class Greeting:
        name: Annotated[str, Text(64)]
        round: Annotated[int, U64]

Layout: the magic ``SFU``, a version byte, the tag (one length byte, then ASCII), then the fields in the order of their
declaration. Integers are big-endian and unsigned, floats big-endian IEEE 754 binary64; text, blobs and choices carry a
32-bit byte length, sequences a 32-bit count. Nested messages are their fields alone: the outer type fixes theirs.

Guarantee
    ``decode(M, encode(m)) == m``; every byte string decodes to at most one message and is then exactly its encoding.
    A decoder raises :class:`~secure_fu.errors.WireError` for anything else: another version or tag, a truncated field,
    bytes left over, a length or count above the declared maximum or above what is left (before anything is allocated
    for it), malformed UTF-8, floats that are not finite, the negative zero (it equals the positive one, so it has no
    encoding of its own).
Assumes
    A message's ``__post_init__`` checks and does not change fields. An ``ArgumentError`` that it raises during decoding
    becomes a ``WireError``.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from secure_fu.crypto._kinds import F64, U32, U64, Blob, Choice, Codec, Fixed, Kind, Sequence, Text, require
from secure_fu.errors import ArgumentError, WireError

__all__ = [
    "F64",
    "U32",
    "U64",
    "Blob",
    "Choice",
    "Fixed",
    "Nested",
    "Sequence",
    "Text",
    "decode",
    "encode",
    "message",
]

_MAGIC: Final = b"SFU"
_VERSION: Final = 1
M = TypeVar("M")


@dataclass(frozen=True)
class Nested:
    """A message inside a message; its type must be decorated with :func:`message` already."""

    message_type: type

    def compile(self, annotation: Any) -> Codec:
        """Return the codec of the nested message."""
        require(annotation, self.message_type, self)
        return _registered(self.message_type).codec


@dataclass(frozen=True)
class _Registration:
    tag: str
    header: bytes
    codec: Codec


_BY_TYPE: dict[type, _Registration] = {}
_BY_TAG: dict[str, type] = {}


def message(tag: str) -> Callable[[type[M]], type[M]]:
    """Class decorator: give a frozen dataclass the wire format, under ``tag``.

    The codec is compiled here, once. Stands above ``@dataclass(frozen=True, ...)``.

    Args:
        tag: 1 to 64 characters of ``a-z 0-9 - /``, used by no other class.

    Raises:
        ArgumentError: the tag is malformed or taken; the class is not a frozen dataclass or has no fields; a field has
            no kind (``U32``, ``Text`` and so on) in its ``Annotated`` type, or one that does not fit the type.
    """
    if not re.fullmatch(r"[a-z0-9/-]{1,64}", tag):
        raise ArgumentError("tag", tag, "1 to 64 characters of a-z, 0-9, '-' and '/'")

    def register(cls: type[M]) -> type[M]:
        holder = _BY_TAG.get(tag)
        # A module that is imported anew may register its class again; another class may not take the tag.
        if holder is not None and (holder.__module__, holder.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ArgumentError("tag", tag, f"a tag that {holder.__qualname__} does not have already")
        codec = _compile(cls)
        header = b"".join([_MAGIC, bytes([_VERSION, len(tag)]), tag.encode("ascii")])
        _BY_TYPE[cls] = _Registration(tag, header, codec)
        _BY_TAG[tag] = cls
        return cls

    return register


def _registered(message_type: type) -> _Registration:
    try:
        return _BY_TYPE[message_type]
    except (KeyError, TypeError):
        raise ArgumentError("message_type", message_type, "a class decorated with @message") from None


def _compile(cls: type) -> Codec:
    parameters = getattr(cls, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen or "__dataclass_fields__" not in vars(cls):
        raise ArgumentError("cls", cls.__qualname__, "a dataclass with frozen=True")
    fields = dataclasses.fields(cls)
    if not fields or not all(field.init for field in fields):
        raise ArgumentError("cls", cls.__qualname__, "at least one field, and all of them in __init__")
    hints = typing.get_type_hints(cls, include_extras=True)
    codecs = tuple((field.name, _field_codec(cls, field.name, hints[field.name])) for field in fields)
    name = cls.__name__

    def encode(value: Any, out: list[bytes]) -> None:
        if type(value) is not cls:
            raise WireError(f"is of type {type(value).__name__}, not {name}")
        for field, codec in codecs:
            try:
                codec.encode(getattr(value, field), out)
            except WireError as error:
                raise WireError(f"{name}.{field}: {error}") from None

    def decode(data: bytes, start: int) -> tuple[Any, int]:
        values: dict[str, Any] = {}
        for field, codec in codecs:
            try:
                values[field], start = codec.decode(data, start)
            except WireError as error:
                raise WireError(f"{name}.{field}: {error}") from None
        try:
            return cls(**values), start
        except ArgumentError as error:
            raise WireError(f"{name}: {error}") from error

    return Codec(encode, decode, sum(codec.smallest for _, codec in codecs))


def _field_codec(cls: type, name: str, annotation: Any) -> Codec:
    arguments = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Annotated else ()
    if len(arguments) != 2 or not hasattr(arguments[1], "compile"):
        raise ArgumentError(f"{cls.__qualname__}.{name}", annotation, "Annotated[type, kind] with one kind of wire.py")
    kind: Kind = arguments[1]
    return kind.compile(arguments[0])


def encode(value: object) -> bytes:
    """Return the one encoding of a message.

    Raises:
        ArgumentError: the type of ``value`` is not decorated with :func:`message`.
        WireError: a field holds what its kind cannot carry. Names the field, never its content.
    """
    registration = _registered(type(value))
    out = [registration.header]
    registration.codec.encode(value, out)
    return b"".join(out)


def decode(message_type: type[M], data: bytes) -> M:
    """Return the message of type ``message_type`` whose encoding is ``data``, all of it.

    Raises:
        ArgumentError: ``message_type`` is not decorated with :func:`message`.
        WireError: ``data`` is not the encoding of such a message.
    """
    registration = _registered(message_type)
    if not isinstance(data, bytes):
        raise WireError(f"a message is bytes, not {type(data).__name__}")
    header = registration.header
    if not data.startswith(header):
        raise WireError(_header_fault(data, registration.tag))
    value, end = registration.codec.decode(data, len(header))
    if end != len(data):
        raise WireError(f"{message_type.__name__} has {len(data) - end} bytes left over")
    return typing.cast(M, value)


def _header_fault(data: bytes, tag: str) -> str:
    if not data.startswith(_MAGIC):
        return "not a secure_fu message: the magic is missing"
    if len(data) > len(_MAGIC) and data[len(_MAGIC)] != _VERSION:
        return f"wire version {data[len(_MAGIC)]} is unknown; this software speaks version {_VERSION}"
    return f"not a message of type {tag!r}"
