"""The deletion service of a server whose parties are on other machines."""

from __future__ import annotations

import contextlib
import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from secure_fu.crypto import Roster
from secure_fu.deletion import (
    BatchRefused,
    DeletionService,
    Execution,
    RequestQueue,
    SignedBatch,
    WindowGivenUp,
    read_deletion_policy,
    unix_time,
)
from secure_fu.deletion.certificates import CertificateStore
from secure_fu.deployment.exchange import Exchange
from secure_fu.deployment.founding.founded import server_identity
from secure_fu.deployment.server.federation_server import FederationServer
from secure_fu.deployment.server.remote_sums import Patience
from secure_fu.deployment.server.window_files import WindowFiles
from secure_fu.errors import AlreadyForgotten, BudgetExceededError, ConfigError, RunDirectoryError
from secure_fu.file_names import AUDIT, CERTIFICATES, DELETION, NODES, POLICY, ROSTER
from secure_fu.protocol import read_policy

__all__ = ["ServerExecutor", "deletion_service", "read_node_sockets"]

_MAX_BYTES: Final = 1 << 20
_UNFIT: Final = (ValueError, ArithmeticError, MemoryError)
"""What a batch is to blame for, ArgumentError among them; that a file is damaged or a party away, it is not."""


class ServerExecutor:
    """Executes batches with a :class:`FederationServer`, which is opened when there is something to execute.

    See :class:`~secure_fu.deletion.execution.DeletionExecutor`.

    Formal guarantees:
        A request that the server cannot plan a deletion for holds up no other: before a window sets out it is refused
        alone, and the others of its batch wait for another one.
        A window is given up, for good, once the budget does not hold what is left of it: a budget only shrinks. That is
        written down before it is said, so that it is never gone on with, whatever is killed then; what it charged
        stays charged.
    Not guaranteed:
        The first for a window that has set out. It is gone on with, or its error is raised again, for something may
        have been released for it.

    Args:
        open_server: opens it; it is closed by :meth:`close`.
        begun: whether a window has set out, by its id. The default takes every window for new.
    """

    def __init__(
        self, open_server: Callable[[], FederationServer], *, begun: Callable[[bytes], bool] = lambda _: False
    ) -> None:
        self._open = open_server
        self._begun = begun
        self._server: FederationServer | None = None

    def check_window(self, batch: SignedBatch) -> None:
        """See :class:`~secure_fu.deletion.execution.DeletionExecutor`.

        The server is opened here, so that where another process has its ledger no window is begun.

        Raises:
            SecureFUError: as :meth:`FederationServer.check_window`, or the server cannot be opened.
        """
        server = self._opened()
        if server.execution(batch.window_id) is not None or self._begun(batch.window_id):
            return
        # A batch that nothing can be planned for is begun, and given back by `execute`, which says what is at fault.
        with contextlib.suppress(AlreadyForgotten, *_UNFIT):
            server.check_window(batch)

    def _opened(self) -> FederationServer:
        if self._server is None:
            self._server = self._open()
        return self._server

    def execute(self, batch: SignedBatch) -> Execution:
        """See :class:`~secure_fu.deletion.execution.DeletionExecutor`.

        Raises:
            BatchRefused: all that the batch names has been forgotten before, or it names clients that there are not,
                or the server cannot plan for what it says.
            WindowGivenUp: the budget ended before the window did.
            SecureFUError: as :meth:`FederationServer.delete`.
        """
        server = self._opened()
        done = server.execution(batch.window_id)
        if done is not None:
            if done.missing:
                server.survey()  # clients that are back are told
                done = server.execution(batch.window_id) or done
            return done
        if self._begun(batch.window_id):
            return self._run(server, batch)
        clients = server.roster.clients
        lost = tuple(one.request_id for one in batch.requests if not {box.client for box in one.boxes} <= clients)
        if lost:
            raise BatchRefused(lost, "it was sealed to clients that are no longer in the roster")
        try:
            server.deletion(batch, adaptive=True)
        except AlreadyForgotten:
            ids = tuple(one.request_id for one in batch.requests)
            raise BatchRefused(ids, "all that it covers has been forgotten before") from None
        except _UNFIT as error:
            unfit = self._unfit(server, batch)
            if not unfit:
                raise
            raise BatchRefused(unfit, f"no deletion can be planned for it: {type(error).__name__}") from error
        return self._run(server, batch)

    def give_up(self, window_id: bytes, why: str) -> bool:
        """See :class:`~secure_fu.deletion.execution.DeletionExecutor`; asks no node.

        Raises:
            SecureFUError: as :meth:`FederationServer.give_up`, or the server cannot be opened.
        """
        server = self._opened()
        if server.execution(window_id) is not None:
            return False
        server.give_up(window_id, why)
        return True

    def _run(self, server: FederationServer, batch: SignedBatch) -> Execution:
        try:
            return server.execute(batch)
        except BudgetExceededError as error:
            server.give_up(batch.window_id, str(error))
            raise WindowGivenUp(str(error)) from error

    def _unfit(self, server: FederationServer, batch: SignedBatch) -> tuple[bytes, ...]:
        """Requests for which nothing can be planned; none where that is so without any request, too."""
        if not self._fits(server, SignedBatch.of(batch.opened, (), max(1, batch.hidden_units))):
            return ()
        alone = [SignedBatch.of(batch.opened, (one,), batch.hidden_units) for one in batch.requests]
        found = tuple(one.requests[0].request_id for one in alone if not self._fits(server, one))
        # Where each alone would do, the one with most units goes: what is left asks for less.
        return found or (max(batch.requests, key=lambda one: (one.units, one.request_id)).request_id,)

    def _fits(self, server: FederationServer, batch: SignedBatch) -> bool:
        try:
            server.deletion(batch, adaptive=True)
        except AlreadyForgotten:
            return True
        except _UNFIT:
            return False
        return True

    def close(self) -> None:
        """Close the server, if it was opened."""
        if self._server is not None:
            self._server.close()
            self._server = None


@contextlib.contextmanager
def deletion_service(
    directory: Path,
    queue: RequestQueue,
    exchange: Exchange,
    *,
    clock: Callable[[], int] = unix_time,
    patience: Patience | None = None,
) -> Iterator[DeletionService]:
    """The deletion service of a server's directory; certificates go to its folder of certificates.

    Args:
        directory: of the server, as it was founded.
        queue: of its requests.
        exchange: with the nodes.
        clock: seconds since 1970 (UTC).
        patience: how long to wait for others.

    Raises:
        RecordError: a file is missing or damaged, or another service has the queue.
        CryptoError: the server's keys cannot be used.
    """
    roster = Roster.decode((directory / ROSTER).read_bytes())
    policy = read_policy(directory / POLICY)
    identity = server_identity(directory, policy, roster)
    executor = ServerExecutor(
        lambda: FederationServer.open(directory, exchange, patience=patience),
        begun=lambda window_id: WindowFiles(directory).started(window_id) is not None,
    )
    made: list[CertificateStore] = []

    def store() -> CertificateStore:
        if not made:
            made.append(
                CertificateStore(
                    directory / CERTIFICATES,
                    identity=identity,
                    roster=roster,
                    policy_digest=policy.digest,
                    clock=clock,
                    audit=_read_audit(directory / AUDIT),
                )
            )
        return made[0]

    with (
        contextlib.closing(executor),
        DeletionService(
            queue,
            executor,
            read_deletion_policy(directory / DELETION),
            roster=roster,
            clock=clock,
            certify=lambda batch, execution: store().certify(batch, execution),
        ) as service,
    ):
        yield service


def _read_audit(path: Path) -> tuple[Mapping[str, Any], bytes] | None:
    """A decoded `audit.json` with its bytes; None where there is none.

    Raises:
        ConfigError: it cannot be read, or is no audit.
    """
    from secure_fu.report.audit.schema import read_audit

    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(AUDIT, str(path), f"a file that can be read ({error.strerror})") from None
    try:
        audit = json.loads(content)
        read_audit(audit)
    except (ValueError, RecursionError, RunDirectoryError) as error:
        raise ConfigError(AUDIT, str(path), f"an audit.json of `secure-fu audit` ({error})") from None
    return audit, content


def read_node_sockets(directory: Path) -> tuple[Path, ...]:
    """The sockets that a server's `nodes.toml` lists: `sockets = ["PATH", ...]`, seen from the directory.

    Raises:
        ConfigError: it is missing, no TOML, or lists none; names the key.
    """
    path = directory / NODES
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError(NODES, f"more than {_MAX_BYTES} bytes", "a list of sockets")
        values = tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigError(NODES, str(path), f"a file that can be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # ValueError: no UTF-8, or no TOML
        raise ConfigError(NODES, str(path), f"valid TOML ({error})") from None
    unknown = sorted(values.keys() - {"sockets"})
    if unknown:
        raise ConfigError(f"nodes.toml: {unknown[0]}", values[unknown[0]], "no key but sockets")
    sockets = values.get("sockets")
    if not isinstance(sockets, list) or not sockets or not all(isinstance(one, str) and one for one in sockets):
        raise ConfigError("nodes.toml: sockets", sockets, "a list of paths of sockets, at least one")
    paths = tuple(Path(os.path.normpath(directory / one)) for one in sockets)
    if len(set(paths)) != len(paths):
        raise ConfigError("nodes.toml: sockets", sockets, "each socket once")
    return paths
