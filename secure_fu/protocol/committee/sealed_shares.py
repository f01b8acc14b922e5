"""The sealed shares of a round, as the server keeps them between upload and ballot: in a file when they are many."""

from __future__ import annotations

import io
import shutil
import tempfile
from typing import IO

from secure_fu.protocol.committee.messages import Delivery

__all__ = ["SealedShares"]

_IN_MEMORY_BYTES = 1 << 24


class SealedShares:
    """Boxes by client and position of the member. Memory does not grow with the clients, but for their digests."""

    def __init__(self) -> None:
        self._file: IO[bytes] = io.BytesIO()
        self._places: dict[str, tuple[int, tuple[int, ...], tuple[bytes, ...]]] = {}

    def add(self, client: str, boxes: tuple[bytes, ...], digests: tuple[bytes, ...]) -> None:
        """Keep one upload's boxes, in the order of the committee, and their digests."""
        place = self._file.seek(0, 2)
        self._file.write(b"".join(boxes))
        self._places[client] = (place, tuple(len(box) for box in boxes), digests)
        if isinstance(self._file, io.BytesIO) and self._file.tell() > _IN_MEMORY_BYTES:
            self._spill()

    def delivery(self, client: str, position: int) -> Delivery:
        """What a member gets of a client's upload."""
        place, lengths, digests = self._places[client]
        self._file.seek(place + sum(lengths[:position]))
        return Delivery(share_digests=digests, box=self._file.read(lengths[position]))

    def clear(self) -> None:
        """Forget all of them."""
        self._file.close()
        self._file, self._places = io.BytesIO(), {}

    def _spill(self) -> None:
        # Unlinked from the start, so that nothing is left of it whatever happens to this process.
        file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - clear() closes it
        self._file.seek(0)
        shutil.copyfileobj(self._file, file)
        self._file.close()
        self._file = file
