"""Everything that an object can reach in memory, and whether recognisable numbers are in it."""

from __future__ import annotations

import gc
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["contents", "find", "needles", "reachable"]

_WINDOW = 4
_SHORTEST = 12
_HEAD = 8
_OPAQUE = (types.ModuleType, types.CodeType, str, bytes, int, float)
_FOREIGN = ("abc", "builtins", "enum", "numpy", "torch", "typing")


def reachable(*roots: object) -> Iterator[object]:
    """Every object that `roots` can reach: attributes, slots, containers, closures, defaults, iterators, caches.

    Goes by what the garbage collector sees, and by hand into what it does not see: the base and the elements of arrays,
    what a memoryview looks at, the locals of frames (of tracebacks and generators). Classes are entered, for something
    may hang on them, but for those of a few foreign packages; modules and the globals of functions are not.
    """
    seen: set[int] = set()
    alive: list[object] = []  # so that no address is used twice while the walk lasts
    stack = list(roots)
    while stack:
        current = stack.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        alive.append(current)
        yield current
        stack.extend(_inside(current))


def _inside(current: object) -> Iterable[object]:
    if isinstance(current, _OPAQUE):
        return ()
    if isinstance(current, type) and current.__module__.partition(".")[0] in _FOREIGN:
        return ()
    if isinstance(current, types.FrameType):
        return list(current.f_locals.values())  # not its callers: the tests themselves know what is secret
    inside = gc.get_referents(current)
    if isinstance(current, types.FunctionType):
        inside = [item for item in inside if item is not current.__globals__]
    if isinstance(current, np.ndarray):
        inside.append(current.base)
        if current.dtype == object:
            inside.extend(current.ravel().tolist())
    elif isinstance(current, memoryview):
        inside.append(current.obj)
    # A weak proxy keeps nothing alive, and one to what is gone cannot even be asked for its type.
    inside = [item for item in inside if type(item) not in weakref.ProxyTypes]
    return [item for item in inside if not isinstance(item, types.ModuleType)]


def contents(item: object) -> Iterator[bytes]:
    """What an object holds itself, as bytes: of texts, buffers, arrays, sequences of numbers, and TenSEAL's objects."""
    if isinstance(item, (bytes, bytearray)):
        yield bytes(item)
    elif isinstance(item, memoryview):
        yield item.tobytes()
    elif isinstance(item, str):
        yield item.encode("utf-8", "surrogatepass")
    elif isinstance(item, np.ndarray) and item.dtype != object:
        yield np.ascontiguousarray(item).tobytes()
        if item.ndim > 1 or not item.flags.c_contiguous:
            yield np.asfortranarray(item).tobytes(order="F")
    elif isinstance(item, (list, tuple, set, frozenset)):
        yield from _numbers(item)
    elif isinstance(item, Mapping):
        yield from _numbers(item.values())
    elif isinstance(item, torch.Tensor):
        yield item.detach().cpu().contiguous().numpy().tobytes()
    elif type(item).__module__.startswith("tenseal") and not isinstance(item, type) and hasattr(item, "serialize"):
        yield from _tenseal(item)


def _numbers(values: Iterable[object]) -> Iterator[bytes]:
    numbers = [value for value in values if isinstance(value, (int, float, np.number)) and not isinstance(value, bool)]
    if len(numbers) >= _WINDOW:
        yield np.array([float(number) for number in numbers]).tobytes()


def _tenseal(item: Any) -> Iterator[bytes]:
    if not hasattr(item, "has_secret_key"):
        yield item.serialize()
        return
    for secret in (False, True):
        if not secret or item.has_secret_key():
            yield item.serialize(True, secret, False, False)


def needles(name: str, vector: NDArray[Any]) -> dict[bytes, str]:
    """Byte strings by which a vector is recognised: pieces of it in every usual form, and of its negative.

    Pieces of fewer than four distinct numbers other than zero are left out, and so are texts of few characters: they
    may be there by chance.
    """
    found: dict[bytes, str] = {}
    starts = sorted({0, len(vector) // 2, max(0, len(vector) - _WINDOW)})
    for start in starts:
        piece = vector[start : start + _WINDOW]
        if len(set(np.abs(piece).tolist()) - {0}) < _WINDOW:
            continue
        whole = bool((piece == np.rint(piece)).all())
        for form in ("<f8", ">f8", "<f4", "<i8", ">i8", "<i4") if whole else ("<f8", ">f8", "<f4"):
            for sign in (1, -1):
                found[(sign * piece).astype(form).tobytes()] = f"{name}[{start}:] as {form}"
                found[(sign * piece).astype(form).tobytes().hex().encode()] = f"{name}[{start}:] as hexadecimal {form}"
        found[", ".join(map(repr, piece.tolist())).encode()] = f"{name}[{start}:] as text"
        found[",".join(map(repr, piece.tolist())).encode()] = f"{name}[{start}:] as compact text"
        found[repr(piece.tolist()[0]).encode()] = f"{name}[{start}] as text"
    return {needle: place for needle, place in found.items() if len(needle) >= _SHORTEST}


def find(wanted: Mapping[bytes, str], items: Iterable[object]) -> list[str]:
    """What of `wanted` is in `items`, each once, and in what."""
    found = set()
    holders: list[str] = []
    pieces: list[bytes] = []
    for item in items:
        if isinstance(item, (float, np.floating)) and repr(float(item)).encode() in wanted:
            found.add(f"{wanted[repr(float(item)).encode()]}, as a number")
        for content in contents(item):
            holders.append(type(item).__name__)
            pieces.append(content)
    blob = b"\0".join(pieces)
    ends = np.cumsum([len(piece) + 1 for piece in pieces])
    by_head: dict[bytes, list[tuple[bytes, str]]] = {}
    for needle, name in wanted.items():
        by_head.setdefault(needle[:_HEAD], []).append((needle, name))
    for position in _candidates(list(by_head), blob):
        holder = int(np.searchsorted(ends, position, side="right"))
        for needle, name in by_head[blob[position : position + _HEAD]]:
            if blob.startswith(needle, position) and position + len(needle) < ends[holder]:
                found.add(f"{name} in {holders[holder]}")
    return sorted(found)


def _candidates(heads: Sequence[bytes], blob: bytes) -> list[int]:
    """Where one of `heads` stands."""
    wanted = np.unique(np.frombuffer(b"".join(heads), dtype="<u8"))
    found: list[int] = []
    for offset in range(min(_HEAD, len(blob) - _HEAD + 1)):
        words = np.frombuffer(blob, dtype="<u8", count=(len(blob) - offset) // _HEAD, offset=offset)
        near = wanted[np.minimum(np.searchsorted(wanted, words), len(wanted) - 1)]
        found.extend((_HEAD * np.flatnonzero(near == words) + offset).tolist())
    return found
