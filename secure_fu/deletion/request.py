"""What is to be forgotten, and which of a client's records that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError
from secure_fu.learning import Records

__all__ = ["DeletionRequest", "Scope"]


class Scope(Enum):
    """What kind of thing a request names."""

    CLIENT = "client"
    GROUP = "group"
    RECORDS = "records"


@dataclass(frozen=True, kw_only=True)
class DeletionRequest:
    """One deletion request; identification happens at the client, on its own records.

    Make one with :meth:`whole_client`, :meth:`person` or :meth:`some_records`.

    Attributes:
        scope: a whole client, all records of some persons (a group column), or some records of one client.
        client: the client concerned; None for a person whose records may be in any silo.
        groups: values of the group column, for Scope.GROUP.
        records: positions within the client's records, for Scope.RECORDS.
    """

    scope: Scope
    client: str | None = None
    groups: tuple[str, ...] = ()
    records: tuple[int, ...] = ()

    @classmethod
    def whole_client(cls, client: str) -> DeletionRequest:
        """Forget all records of one client."""
        return cls(scope=Scope.CLIENT, client=client)

    @classmethod
    def person(cls, *groups: str, client: str | None = None) -> DeletionRequest:
        """Forget all records whose group is one of `groups`, at one client or wherever they are."""
        return cls(scope=Scope.GROUP, client=client, groups=groups)

    @classmethod
    def some_records(cls, client: str, records: tuple[int, ...]) -> DeletionRequest:
        """Forget the records at these positions of one client."""
        return cls(scope=Scope.RECORDS, client=client, records=tuple(int(i) for i in records))

    def __post_init__(self) -> None:
        if self.scope is not Scope.GROUP and self.client is None:
            raise ArgumentError("client", None, "the name of a client")
        if self.scope is Scope.GROUP and not self.groups:
            raise ArgumentError("groups", self.groups, "at least one value of the group column")
        if self.scope is Scope.RECORDS:
            if not self.records:
                raise ArgumentError("records", self.records, "at least one position")
            if len(set(self.records)) != len(self.records):
                raise ArgumentError("records", f"{len(self.records)} positions", "positions without repeats")

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
                raise ArgumentError("request", f"groups {self.groups!r}", "records with a group column")
            mask[:] = np.isin(np.asarray(records.groups, dtype=str), self.groups)
        else:
            for position in self.records:
                if not 0 <= position < len(records):
                    raise ArgumentError(
                        "records", position, f"positions between 0 and {len(records) - 1}, as {client!r} has"
                    )
            mask[list(self.records)] = True
        return mask

    def identify_all(self, clients: Mapping[str, Records]) -> dict[str, NDArray[np.bool_]]:
        """Marks for every client of a simulation.

        Raises:
            ArgumentError: an unknown client, a position that does not exist, or nothing at all to forget.
        """
        if self.client is not None and self.client not in clients:
            raise ArgumentError("client", self.client, f"one of {sorted(clients)[:12]}")
        marks = {name: self.identify(name, records) for name, records in clients.items()}
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
        return f"{len(self.records)} records of client {self.client} are to be forgotten"
