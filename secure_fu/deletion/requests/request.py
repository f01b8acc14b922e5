"""What is to be forgotten, and which of a client's records that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError

if TYPE_CHECKING:  # who looks at a queue does not wait for torch
    from secure_fu.learning import Records

__all__ = ["DeletionBatch", "DeletionRequest", "Scope"]


class Scope(Enum):
    """What kind of thing a request names."""

    CLIENT = "client"
    GROUP = "group"
    RECORDS = "records"
    CLASS = "class"


@dataclass(frozen=True, kw_only=True)
class DeletionRequest:
    """One deletion request; identification happens at the client, on its own records.

    Make one with :meth:`whole_client`, :meth:`person`, :meth:`some_records` or :meth:`whole_class`.

    Attributes:
        scope: a whole client, all records of some persons (a group column), some records of one client, or all records
            of one class.
        client: the client concerned; None for persons or a class whose records may be in any silo.
        groups: values of the group column, without repeats, for Scope.GROUP.
        records: positions within the client's records, without repeats, for Scope.RECORDS.
        label: the class, for Scope.CLASS.

    Raises:
        ArgumentError: a field does not fit the scope.
    """

    scope: Scope
    client: str | None = None
    groups: tuple[str, ...] = ()
    records: tuple[int, ...] = ()
    label: int | None = None

    @classmethod
    def whole_client(cls, client: str) -> DeletionRequest:
        """Forget all records of one client."""
        return cls(scope=Scope.CLIENT, client=client)

    @classmethod
    def person(cls, *groups: str, client: str | None = None) -> DeletionRequest:
        """Forget all records whose group is one of `groups`, at one client or wherever they are."""
        return cls(scope=Scope.GROUP, client=client, groups=groups)

    @classmethod
    def some_records(cls, client: str, records: Iterable[int]) -> DeletionRequest:
        """Forget the records at these positions of one client."""
        return cls(scope=Scope.RECORDS, client=client, records=tuple(records))

    @classmethod
    def whole_class(cls, label: int, client: str | None = None) -> DeletionRequest:
        """Forget all records of one class, at one client or wherever they are."""
        return cls(scope=Scope.CLASS, client=client, label=label)

    def __post_init__(self) -> None:
        anywhere = self.scope in (Scope.GROUP, Scope.CLASS)
        if self.client == "" or (self.client is None and not anywhere):
            raise ArgumentError("client", self.client, "the name of a client")
        if (self.label is not None) is not (self.scope is Scope.CLASS):
            wanted = "a class label" if self.scope is Scope.CLASS else f"None for scope {self.scope.value}"
            raise ArgumentError("label", self.label, wanted)
        if self.label is not None:
            object.__setattr__(self, "label", _label(self.label))
        for name, own in (("groups", Scope.GROUP), ("records", Scope.RECORDS)):
            values = getattr(self, name)
            if self.scope is not own and values:
                raise ArgumentError(name, f"{len(values)} values", f"none for scope {self.scope.value}")
            if self.scope is own and not values:
                raise ArgumentError(name, (), "at least one value")
            if len(set(values)) != len(values):
                raise ArgumentError(name, f"{len(values)} values, {len(set(values))} of them distinct", "no repeats")
        if not all(isinstance(group, str) for group in self.groups):
            raise ArgumentError("groups", "not all strings", "values of the group column, as strings")
        object.__setattr__(self, "records", tuple(_position(value) for value in self.records))

    def identify(self, client: str, records: Records) -> NDArray[np.bool_]:
        """Mark what this request covers, at one client.

        Args:
            client: name of the client that asks.
            records: its n records.

        Returns:
            shape (n,), True where the record is to be forgotten.

        Raises:
            ArgumentError: a position that does not exist, or a group request on records without a group column.
        """
        mask = np.zeros(len(records), dtype=np.bool_)
        if self.client not in (None, client):
            return mask
        if self.scope is Scope.CLIENT:
            mask[:] = True
        elif self.scope is Scope.GROUP:
            if records.groups is None:
                raise ArgumentError("request", self.describe(), f"records with a group column at client {client!r}")
            mask[:] = np.isin(records.groups, self.groups)
        elif self.scope is Scope.CLASS:
            mask[:] = records.labels.numpy() == self.label
        else:
            for position in self.records:
                if not 0 <= position < len(records):
                    expected = f"positions between 0 and {len(records) - 1}, as client {client!r} has"
                    raise ArgumentError("records", position, expected)
            mask[list(self.records)] = True
        return mask

    def identify_all(self, clients: Mapping[str, Records]) -> dict[str, NDArray[np.bool_]]:
        """Marks for every client of a simulation.

        Raises:
            ArgumentError: an unknown client, a position that does not exist, a group or class that no record has.
        """
        if self.client is not None and self.client not in clients:
            raise ArgumentError("client", self.client, f"one of {', '.join(sorted(clients)[:12])}")
        marks = {name: self.identify(name, records) for name, records in clients.items()}
        found = {
            group
            for name, records in clients.items()
            if records.groups is not None
            for group in np.unique(records.groups[marks[name]])
        }
        for position, group in enumerate(self.groups):
            if group not in found:
                place = "any client" if self.client is None else f"client {self.client!r}"
                raise ArgumentError(f"groups[{position}]", group, f"a group with at least one record at {place}")
        if not any(mask.any() for mask in marks.values()):
            raise ArgumentError("request", self.describe(), "a request that covers at least one record")
        return marks

    def describe(self) -> str:
        """One sentence in plain words; names no record's content."""
        if self.scope is Scope.CLIENT:
            return f"client {self.client} leaves; all of its records are to be forgotten"
        if self.scope is Scope.GROUP:
            place = "every silo" if self.client is None else f"client {self.client}"
            count = len(self.groups)
            return f"all records of {count} {'person' if count == 1 else 'persons'} at {place} are to be forgotten"
        if self.scope is Scope.CLASS:
            place = "every client" if self.client is None else f"client {self.client}"
            return f"all records of class {self.label} at {place} are to be forgotten"
        count = len(self.records)
        what = "1 record" if count == 1 else f"{count} records"
        return f"{what} of client {self.client} {'is' if count == 1 else 'are'} to be forgotten"


@dataclass(frozen=True)
class DeletionBatch:
    """Several requests that are served together, as one: a certificate speaks of all their units as one group.

    Attributes:
        requests: at least one; they may overlap.

    Raises:
        ArgumentError: there is none.
    """

    requests: tuple[DeletionRequest, ...]

    def __post_init__(self) -> None:
        if not self.requests:
            raise ArgumentError("requests", (), "at least one request")
        for position, request in enumerate(self.requests):
            if not isinstance(request, DeletionRequest):
                raise ArgumentError(f"requests[{position}]", type(request).__name__, "a DeletionRequest")

    def identify(self, client: str, records: Records) -> NDArray[np.bool_]:
        """What any of the requests covers, at one client; see :meth:`DeletionRequest.identify`."""
        marks: NDArray[np.bool_] = np.logical_or.reduce(
            [request.identify(client, records) for request in self.requests]
        )
        return marks

    def identify_all(self, clients: Mapping[str, Records]) -> dict[str, NDArray[np.bool_]]:
        """Marks for every client of a simulation; see :meth:`DeletionRequest.identify_all`."""
        found = [request.identify_all(clients) for request in self.requests]
        return {name: np.logical_or.reduce([marks[name] for marks in found]) for name in clients}

    def describe(self) -> str:
        """One sentence in plain words; names no record's content."""
        said = Counter(request.describe() for request in self.requests)
        shown = [text if times == 1 else f"{times} times: {text}" for text, times in list(said.items())[:3]]
        more = len(said) - len(shown)
        return "; ".join(shown) + (f"; and {more} more requests" if more > 1 else "; and one more" if more else "")


def _label(value: object) -> int:
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 0:
        return int(value)
    raise ArgumentError("label", value, "a class, a whole number of at least 0")


def _position(value: object) -> int:
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    raise ArgumentError("records", value, "whole numbers, positions within the client's records")
