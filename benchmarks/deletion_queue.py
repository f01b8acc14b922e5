"""Seconds to add requests to a queue, one by one and each on disk before the next, and to list them.

Requests are signed beforehand: signing is the clients' work. Adding checks the signature, whether the signer may ask,
and whether the queue has the request already; then every request is added again, which has to change nothing. Seconds
are on the wall, for adding is mostly waiting for the disk; what the processor did is beside them.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from harness import arguments, report, spread, timed

from secure_fu.crypto import Identity, Role, Roster, encode
from secure_fu.deletion import (
    DeletionPolicy,
    DeletionRequest,
    RequestQueue,
    SignedRequest,
    forecast,
    plan_window,
    sign_request,
)

NOW = 1_800_000_000
DAY = 24 * 3600
CLIENTS = 100


def signed_requests(count: int) -> tuple[Roster, list[SignedRequest]]:
    """Requests for three records each, by a hundred clients in turn."""
    clients = [Identity.generate(f"client-{number:03}", Role.CLIENT) for number in range(CLIENTS)]
    roster = Roster.of([Identity.generate("server", Role.SERVER).party, *(client.party for client in clients)])
    requests = []
    for number in range(count):
        client = clients[number % CLIENTS]
        wanted = DeletionRequest.some_records(client.name, range(number, number + 3))
        requests.append(
            sign_request(client, wanted, roster=roster, units=3, submitted=NOW, deadline=NOW + DAY + number)
        )
    return roster, requests


def main() -> None:
    options = arguments(__doc__)
    count = 200 if options.quick else 10_000
    policy = DeletionPolicy(window_start=NOW, window_seconds=DAY, minimum_batch=10)
    signing, (roster, requests) = timed(signed_requests, count)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "queue.sqlite"
        with RequestQueue.create(path) as queue:

            def add() -> int:
                return sum(queue.submit(one, roster=roster, policy=policy, now=NOW).new for one in requests)

            started = time.process_time()
            adding, new = timed(add)
            processor = time.process_time() - started
            again, repeated = timed(add)
        together = Path(folder) / "together.sqlite"
        with RequestQueue.create(together) as queue:
            at_once, _ = timed(lambda: queue.submit_all(requests, roster=roster, policy=policy, now=NOW))
        opening, queue = timed(lambda: RequestQueue(path, read_only=True))
        with queue:
            listing = [timed(queue.entries)[0] for _ in range(10)]  # ten lists kept would be time of the collector
            waiting = queue.entries()
            planning = [timed(plan_window, policy, waiting, NOW)[0] for _ in range(10)]
            looking = [timed(lambda: forecast(policy, waiting, now=NOW, first=NOW))[0] for _ in range(10)]
        assert (new, repeated, len(waiting)) == (count, 0, count)
        figures: dict[str, object] = {
            "requests": count,
            "bytes of a request": len(encode(requests[0])),
            "bytes of the queue": path.stat().st_size,
            "seconds of signing, at the clients": signing,
            "seconds of adding one by one": adding,
            "of those, seconds of the processor": processor,
            "seconds of adding them again": again,
            "seconds of adding them in one transaction": at_once,
            "seconds of opening the queue": opening,
            "seconds of listing": spread(listing),
            "seconds of planning a window": spread(planning),
            "seconds of looking for deadlines in danger": spread(looking),
        }
    report(options, figures)


if __name__ == "__main__":
    main()
