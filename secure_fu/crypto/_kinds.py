"""The kinds of field that a wire message can have, each of which compiles to a pair of functions.

An encoder appends the parts of one value to a list; a decoder takes the message and an offset and returns the value and
the offset behind it. Both raise :class:`~secure_fu.errors.WireError` with a message that names lengths and types, never
content.
"""

from __future__ import annotations

import enum
import math
import struct
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from secure_fu.crypto._checks import require_int
from secure_fu.errors import ArgumentError, WireError

__all__ = ["F64", "U32", "U64", "Blob", "Choice", "Codec", "Fixed", "Kind", "Sequence", "Text", "require"]

_LONGEST: Final = (1 << 32) - 1

Encoder = Callable[[Any, list[bytes]], None]
Decoder = Callable[[bytes, int], tuple[Any, int]]


@dataclass(frozen=True)
class Codec:
    """A compiled field or message: how it is written and read, and the fewest bytes that it can take."""

    encode: Encoder
    decode: Decoder
    smallest: int


class Kind(Protocol):
    """What stands in the ``Annotated`` of a field."""

    def compile(self, annotation: Any) -> Codec:
        """Return the codec. Raises ``ArgumentError`` when ``annotation``, the field's Python type, does not fit."""
        ...


def require(annotation: Any, expected: object, kind: object) -> None:
    """Refuse a field whose Python type is not the one that its kind carries."""
    if annotation != expected:
        raise ArgumentError("annotation", annotation, f"{expected} for {kind}")


def _slice_end(data: bytes, start: int, size: int) -> int:
    end = start + size
    if end > len(data):
        raise WireError("the message is truncated")
    return end


def _read_length(data: bytes, start: int, maximum: int) -> tuple[int, int]:
    end = _slice_end(data, start, 4)
    length = int.from_bytes(data[start:end], "big")
    if length > maximum:
        raise WireError(f"declares a length of {length}, more than the {maximum} allowed")
    return length, end


@dataclass(frozen=True)
class _Unsigned:
    size: int

    def compile(self, annotation: Any) -> Codec:
        require(annotation, int, self)
        size, limit = self.size, 1 << (8 * self.size)

        def encode(value: Any, out: list[bytes]) -> None:
            if type(value) is not int or not 0 <= value < limit:
                raise WireError(f"is not an int from 0 to 2^{8 * size} - 1")
            out.append(value.to_bytes(size, "big"))

        def decode(data: bytes, start: int) -> tuple[int, int]:
            end = _slice_end(data, start, size)
            return int.from_bytes(data[start:end], "big"), end

        return Codec(encode, decode, size)


@dataclass(frozen=True)
class _Float:
    def compile(self, annotation: Any) -> Codec:
        require(annotation, float, self)
        pack = struct.Struct(">d")
        negative_zero = pack.pack(-0.0)

        def encode(value: Any, out: list[bytes]) -> None:
            if not isinstance(value, float) or not math.isfinite(value):
                raise WireError("is not a finite float")
            out.append(pack.pack(value + 0.0))  # -0.0 + 0.0 is 0.0

        def decode(data: bytes, start: int) -> tuple[float, int]:
            end = _slice_end(data, start, 8)
            raw = data[start:end]
            value: float = pack.unpack(raw)[0]
            if not math.isfinite(value):
                raise WireError("is not a finite float")
            if raw == negative_zero:
                raise WireError("is the negative zero, which has no canonical encoding")
            return value, end

        return Codec(encode, decode, 8)


U32: Final = _Unsigned(4)
"""``int`` from 0 to 2^32 - 1."""
U64: Final = _Unsigned(8)
"""``int`` from 0 to 2^64 - 1."""
F64: Final = _Float()
"""Finite ``float``."""


@dataclass(frozen=True)
class Text:
    """``str`` of at most ``max_bytes`` bytes of UTF-8."""

    max_bytes: int

    def compile(self, annotation: Any) -> Codec:
        require(annotation, str, self)
        return _text(require_int("max_bytes", self.max_bytes, least=1, most=_LONGEST))


def _text(maximum: int) -> Codec:
    def encode(value: Any, out: list[bytes]) -> None:
        if not isinstance(value, str):
            raise WireError(f"is of type {type(value).__name__}, not str")
        try:
            raw = value.encode("utf-8")
        except UnicodeEncodeError:
            raise WireError("holds a surrogate, which has no UTF-8") from None
        if len(raw) > maximum:
            raise WireError(f"takes {len(raw)} bytes, more than the {maximum} allowed")
        out.append(len(raw).to_bytes(4, "big"))
        out.append(raw)

    def decode(data: bytes, start: int) -> tuple[str, int]:
        length, start = _read_length(data, start, maximum)
        end = _slice_end(data, start, length)
        try:
            return data[start:end].decode("utf-8"), end
        except UnicodeDecodeError:
            raise WireError("is not UTF-8") from None

    return Codec(encode, decode, 4)


@dataclass(frozen=True)
class Blob:
    """``bytes``, at most ``max_bytes`` of them."""

    max_bytes: int

    def compile(self, annotation: Any) -> Codec:
        require(annotation, bytes, self)
        maximum = require_int("max_bytes", self.max_bytes, least=1, most=_LONGEST)

        def encode(value: Any, out: list[bytes]) -> None:
            if type(value) is not bytes:
                raise WireError(f"is of type {type(value).__name__}, not bytes")
            if len(value) > maximum:
                raise WireError(f"takes {len(value)} bytes, more than the {maximum} allowed")
            out.append(len(value).to_bytes(4, "big"))
            out.append(value)

        def decode(data: bytes, start: int) -> tuple[bytes, int]:
            length, start = _read_length(data, start, maximum)
            end = _slice_end(data, start, length)
            return data[start:end], end

        return Codec(encode, decode, 4)


@dataclass(frozen=True)
class Fixed:
    """``bytes``, exactly ``size`` of them, without a length."""

    size: int

    def compile(self, annotation: Any) -> Codec:
        require(annotation, bytes, self)
        size = require_int("size", self.size, least=1, most=_LONGEST)

        def encode(value: Any, out: list[bytes]) -> None:
            if type(value) is not bytes or len(value) != size:
                raise WireError(f"is not bytes of length {size}")
            out.append(value)

        def decode(data: bytes, start: int) -> tuple[bytes, int]:
            end = _slice_end(data, start, size)
            return data[start:end], end

        return Codec(encode, decode, size)


@dataclass(frozen=True)
class Choice:
    """A member of an ``enum`` whose values are distinct strings; the value travels as text."""

    members: type[enum.Enum]

    def compile(self, annotation: Any) -> Codec:
        require(annotation, self.members, self)
        by_value = {member.value: member for member in self.members}
        if not by_value or not all(isinstance(value, str) for value in by_value):
            raise ArgumentError("members", self.members, "an enum with string values")
        text = _text(max(len(value.encode("utf-8")) for value in by_value))

        def encode(value: Any, out: list[bytes]) -> None:
            if not isinstance(value, self.members):
                raise WireError(f"is of type {type(value).__name__}, not {self.members.__name__}")
            text.encode(value.value, out)

        def decode(data: bytes, start: int) -> tuple[enum.Enum, int]:
            value, end = text.decode(data, start)
            if value not in by_value:
                raise WireError(f"is not one of {sorted(by_value)}")
            return by_value[value], end

        return Codec(encode, decode, text.smallest)


@dataclass(frozen=True)
class Sequence:
    """``tuple[X, ...]`` of at most ``max_items`` items, each travelling as ``item`` says."""

    item: Kind
    max_items: int

    def compile(self, annotation: Any) -> Codec:
        arguments = typing.get_args(annotation)
        if typing.get_origin(annotation) is not tuple or len(arguments) != 2 or arguments[1] is not Ellipsis:
            raise ArgumentError("annotation", annotation, f"tuple[X, ...] for {self}")
        item = self.item.compile(arguments[0])
        encode_item, decode_item, smallest = item.encode, item.decode, item.smallest
        maximum = require_int("max_items", self.max_items, least=1, most=_LONGEST)

        def encode(value: Any, out: list[bytes]) -> None:
            if type(value) is not tuple:
                raise WireError(f"is of type {type(value).__name__}, not tuple")
            if len(value) > maximum:
                raise WireError(f"has {len(value)} items, more than the {maximum} allowed")
            out.append(len(value).to_bytes(4, "big"))
            for element in value:
                encode_item(element, out)

        def decode(data: bytes, start: int) -> tuple[tuple[Any, ...], int]:
            count, start = _read_length(data, start, maximum)
            if count * smallest > len(data) - start:
                raise WireError(f"declares {count} items, more than the message can hold")
            elements = []
            for _ in range(count):
                element, start = decode_item(data, start)
                elements.append(element)
            return tuple(elements), start

        return Codec(encode, decode, 4)
