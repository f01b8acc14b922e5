"""`secure-fu found` and `secure-fu epoch`: a federation begins, and goes on under another roster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secure_fu.file_names import POLICY, ROSTER

__all__ = ["epoch", "found"]

_Roster = Annotated[Path, typer.Option(metavar="FILE", help="The roster.bin that the parties have agreed on.")]
_Bundle = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where to put the nodes' public files. Default: bundle in the server's folder."),
]


def found(
    federation: Annotated[Path, typer.Argument(metavar="FEDERATION.toml", help="Model, plan, scheme, deletions.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The server's directory.")],
    roster: _Roster = Path(ROSTER),
    keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The server's keys.bin. Default: the one in --out.")
    ] = None,
    bundle: _Bundle = None,
) -> None:
    """Make the server's directory of a new federation, and the public files that its nodes pin."""
    from secure_fu.deployment.founding.bundle import found as found_federation
    from secure_fu.deployment.founding.setup import read_roster
    from secure_fu.deployment.founding.terms import read_terms
    from secure_fu.deployment.founding.windows_held import FEW_WINDOWS, window_rounds, windows_held

    terms = read_terms(federation)
    founding = found_federation(terms, read_roster(roster), out, keys=keys)
    plan = founding.plan
    held = windows_held(terms, plan, clients=len(founding.clients))
    print(
        f"{out}: {len(founding.clients)} clients, scheme {founding.scheme_name}, {plan.recipe.rounds} rounds at noise "
        f"multiplier {plan.recipe.noise_multiplier:.4g}; training and one deletion cost epsilon "
        f"{plan.planned_epsilon:.3g} of {plan.budget.epsilon:g}."
    )
    said = "1 deletion window" if held == 1 else f"{held} deletion windows"
    print(f"After training the budget holds {said} of {window_rounds(terms, plan)} rounds, or more that are shorter.")
    if terms.deletion.cover and held < FEW_WINDOWS:
        print(
            f"With cover = true a window runs every {terms.deletion.window_seconds / 86400:.3g} days, whoever asks: "
            "cover ends when the budget holds one window more. From then on a window that runs shows that somebody "
            "asked."
        )
    _write_bundle(out, bundle)


def epoch(
    server: Annotated[
        Path, typer.Argument(metavar="SERVER_DIR", help="The server's directory; the server is stopped.")
    ],
    roster: _Roster = Path("roster-next.bin"),
    threshold: Annotated[int | None, typer.Option(help="Members who open together, where that changes.")] = None,
    quorum: Annotated[int | None, typer.Option(help="Members who agree on a roll, where that changes.")] = None,
    corrupt: Annotated[int | None, typer.Option(help="Members who may be corrupt, where that changes.")] = None,
    refuse_requests: Annotated[
        bool, typer.Option("--refuse-requests", help="Refuse waiting requests of parties that go or have new keys.")
    ] = False,
    bundle: _Bundle = None,
) -> None:
    """Let a federation go on under another roster. What was spent and learnt stays; every node pins the new bundle."""
    from secure_fu.crypto import CommitteeTerms, Role
    from secure_fu.deployment.founding.setup import read_roster
    from secure_fu.deployment.upkeep import begin_epoch
    from secure_fu.protocol import read_policy

    new = read_roster(roster)
    terms = None
    if (threshold, quorum, corrupt) != (None, None, None):
        old = read_policy(server / POLICY).terms
        terms = CommitteeTerms(
            members=len(new.names(Role.MEMBER)),
            threshold=old.threshold if threshold is None else threshold,
            quorum=old.quorum if quorum is None else quorum,
            corrupt=old.corrupt if corrupt is None else corrupt,
        )
    founding = begin_epoch(server, new, terms=terms, refuse_requests=refuse_requests)
    print(f"{server}: epoch {founding.facts['epoch']}, {len(founding.clients)} clients. Budgets go on as they are.")
    _write_bundle(server, bundle)


def _write_bundle(server: Path, bundle: Path | None) -> None:
    from secure_fu.deployment.founding.bundle import write_bundle
    from secure_fu.deployment.founding.setup import digest_lines

    folder = server / "bundle" if bundle is None else bundle
    digest = write_bundle(server, folder)
    print(f"{folder}: for every node, nothing in it is secret. Digest, for each operator to compare before pinning:")
    for line in digest_lines(digest):
        print(f"  {line}")
