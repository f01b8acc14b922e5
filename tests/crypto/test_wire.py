"""The wire format: canonical, and nothing but WireError for anything that is not canonical."""

from __future__ import annotations

import enum
import struct
import tracemalloc
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_fu.crypto import (
    F64,
    U32,
    U64,
    Blob,
    Choice,
    Fixed,
    Nested,
    Sequence,
    Text,
    decode,
    encode,
    message,
)
from secure_fu.errors import ArgumentError, WireError


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Numbers(enum.Enum):
    ONE = 1


@message("test/point")
@dataclass(frozen=True, kw_only=True)
class Point:
    x: Annotated[float, F64]
    label: Annotated[str, Text(12)]


@message("test/everything")
@dataclass(frozen=True, kw_only=True)
class Everything:
    small: Annotated[int, U32]
    large: Annotated[int, U64]
    colour: Annotated[Colour, Choice(Colour)]
    digest: Annotated[bytes, Fixed(4)]
    blob: Annotated[bytes, Blob(20)]
    point: Annotated[Point, Nested(Point)]
    points: Annotated[tuple[Point, ...], Sequence(Nested(Point), 3)]
    names: Annotated[tuple[str, ...], Sequence(Text(12), 5)]
    blobs: Annotated[tuple[bytes, ...], Sequence(Blob(3), 4)]


@message("test/bulk")
@dataclass(frozen=True)
class Bulk:
    names: Annotated[tuple[str, ...], Sequence(Text(1 << 30), 1 << 30)]
    blob: Annotated[bytes, Blob(1 << 31)]


@message("test/even")
@dataclass(frozen=True)
class Even:
    number: Annotated[int, U32]

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ArgumentError("number", self.number, "an even number")


texts = st.text(max_size=12).filter(lambda text: len(text.encode("utf-8")) <= 12)
points = st.builds(Point, x=st.floats(allow_nan=False, allow_infinity=False), label=texts)
everything = st.builds(
    Everything,
    small=st.integers(0, 2**32 - 1),
    large=st.integers(0, 2**64 - 1),
    colour=st.sampled_from(Colour),
    digest=st.binary(min_size=4, max_size=4),
    blob=st.binary(max_size=20),
    point=points,
    points=st.lists(points, max_size=3).map(tuple),
    names=st.lists(texts, max_size=5).map(tuple),
    blobs=st.lists(st.binary(max_size=3), max_size=4).map(tuple),
)
VALID = Everything(
    small=1,
    large=2,
    colour=Colour.RED,
    digest=b"abcd",
    blob=b"xyz",
    point=Point(x=1.5, label="p"),
    points=(Point(x=0.0, label=""),),
    names=("ab", "ü"),
    blobs=(b"", b"123"),
)


@given(everything)
def test_round_trip(value: Everything) -> None:
    data = encode(value)
    back = decode(Everything, data)
    assert back == value
    assert encode(back) == data


@given(everything, st.data())
def test_equal_messages_have_equal_encodings(value: Everything, data: st.DataObject) -> None:
    """Also where Python calls different values equal: 0.0 and -0.0."""
    twin = Everything(**{**vars(value), "point": Point(x=value.point.x * 1.0, label=value.point.label)})
    negative = Everything(**{**vars(value), "point": Point(x=-0.0, label="")})
    positive = Everything(**{**vars(value), "point": Point(x=0.0, label="")})
    assert encode(twin) == encode(value)
    assert negative == positive
    assert encode(negative) == encode(positive)


@given(everything)
def test_every_truncation_is_refused(value: Everything) -> None:
    data = encode(value)
    for end in range(len(data)):
        with pytest.raises(WireError):
            decode(Everything, data[:end])


@given(everything, st.binary(min_size=1, max_size=9))
def test_bytes_left_over_are_refused(value: Everything, rest: bytes) -> None:
    with pytest.raises(WireError, match="left over"):
        decode(Everything, encode(value) + rest)


@given(st.binary(max_size=300))
def test_garbage_is_refused_with_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(Everything, data)


@given(st.data())
def test_changed_bytes_are_refused_or_are_another_canonical_message(data: st.DataObject) -> None:
    raw = bytearray(encode(data.draw(everything)))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        value = decode(Everything, bytes(raw))
    except WireError:
        return
    assert encode(value) == bytes(raw)


def test_declared_lengths_allocate_nothing() -> None:
    header = encode(Bulk((), b""))[:-8]
    huge_count = header + struct.pack(">I", 1 << 30)
    huge_blob = header + struct.pack(">II", 0, 1 << 31)
    huge_name = header + struct.pack(">II", 1, 1 << 30)
    tracemalloc.start()
    try:
        for data, fault in ((huge_count, "can hold"), (huge_blob, "truncated"), (huge_name, "truncated")):
            with pytest.raises(WireError, match=fault):
                decode(Bulk, data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_length_above_the_maximum_is_refused_though_the_bytes_are_there() -> None:
    data = encode(VALID)
    longer = data.replace(struct.pack(">I", 3) + b"xyz", struct.pack(">I", 21) + b"x" * 21)
    assert longer != data
    with pytest.raises(WireError, match="blob: declares a length of 21, more than the 20 allowed"):
        decode(Everything, longer)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("small", -1),
        ("small", 2**32),
        ("small", True),
        ("small", 1.0),
        ("large", 2**64),
        ("colour", "red"),
        ("digest", b"abc"),
        ("digest", bytearray(4)),
        ("blob", "text"),
        ("blob", bytes(21)),
        ("point", VALID),
        ("point", Point(x=float("nan"), label="")),
        ("point", Point(x=float("inf"), label="")),
        ("point", Point(x=1, label="")),
        ("point", Point(x=1.0, label="thirteen byte")),
        ("point", Point(x=1.0, label="\ud800")),
        ("point", Point(x=1.0, label=b"bytes")),  # type: ignore[arg-type]
        ("points", [Point(x=1.0, label="")]),
        ("points", (Point(x=1.0, label=""),) * 4),
        ("names", ("a", 1)),
    ],
)
def test_fields_that_do_not_fit_are_not_encoded(field: str, value: Any) -> None:
    with pytest.raises(WireError, match=f"Everything.{field}"):
        encode(Everything(**{**vars(VALID), field: value}))


def test_errors_do_not_repeat_content() -> None:
    with pytest.raises(WireError) as caught:
        encode(Everything(**{**vars(VALID), "blob": b"sentinel" * 3}))
    assert "sentinel" not in str(caught.value)


def test_the_checks_of_a_message_run_on_decoding() -> None:
    data = encode(Even(4))
    with pytest.raises(WireError, match="number is 5"):
        decode(Even, data[:-1] + b"\x05")


def test_decoding_takes_bytes_and_a_message_type() -> None:
    with pytest.raises(WireError, match="bytearray"):
        decode(Even, bytearray(encode(Even(4))))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="message_type"):
        decode(int, b"")
    with pytest.raises(ArgumentError, match="message_type"):
        encode(3)


def test_versions_and_tags_are_named_in_the_refusal() -> None:
    data = encode(Even(4))
    with pytest.raises(WireError, match="version 9 is unknown"):
        decode(Even, data[:3] + b"\x09" + data[4:])
    with pytest.raises(WireError, match="not a message of type 'test/point'"):
        decode(Point, data)


def declare(annotation: Any, *, frozen: bool = True, tag: str = "test/declared") -> None:
    namespace = {"__annotations__": {"field": annotation}}
    message(tag)(dataclass(frozen=frozen)(type("Declared", (), namespace)))


@pytest.mark.parametrize(
    "annotation",
    [
        int,
        str,
        list[int],
        Annotated[int, "a comment"],
        Annotated[int, U32, U64],
        Annotated[float, U32],
        Annotated[bool, U32],
        Annotated[int, F64],
        Annotated[bytes, Text(3)],
        Annotated[str, Blob(3)],
        Annotated[str, Text(0)],
        Annotated[str, Text(True)],
        Annotated[bytes, Blob(1 << 32)],
        Annotated[bytes, Fixed(-1)],
        Annotated[list[str], Sequence(Text(3), 3)],
        Annotated[tuple[str, str], Sequence(Text(3), 3)],
        Annotated[tuple[int, ...], Sequence(Text(3), 3)],
        Annotated[tuple[str, ...], Sequence(Text(3), 0)],
        Annotated[int, Nested(int)],
        Annotated[Point, Nested(Even)],
        Annotated[Numbers, Choice(Numbers)],
        Annotated[Colour, Choice(Numbers)],
    ],
    ids=str,
)
def test_unknown_annotations_are_refused_at_decoration(annotation: Any) -> None:
    with pytest.raises(ArgumentError):
        declare(annotation)


def test_declarations_that_are_refused() -> None:
    good = Annotated[int, U32]
    declare(good)
    with pytest.raises(ArgumentError, match="frozen"):
        declare(good, frozen=False)
    for tag in ("", "Upper", "a b", "x" * 65, "ü"):
        with pytest.raises(ArgumentError, match="tag"):
            declare(good, tag=tag)
    with pytest.raises(ArgumentError, match="tag"):
        declare(good, tag="test/point")
    with pytest.raises(ArgumentError, match="at least one field"):
        message("test/empty")(dataclass(frozen=True)(type("Empty", (), {})))
    with pytest.raises(ArgumentError, match="frozen"):
        message("test/undecorated")(type("Heir", (Point,), {}))
