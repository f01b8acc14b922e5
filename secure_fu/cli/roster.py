"""`secure-fu roster`: who takes part, and pinning it by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secure_fu.file_names import POLICY, ROSTER

if TYPE_CHECKING:
    from secure_fu.crypto import Roster

__all__ = ["roster"]

roster = typer.Typer(no_args_is_help=True, help="Make, compare, change and pin the list of all parties.")

_Roster = Annotated[Path, typer.Argument(metavar="ROSTER", help="A roster.bin.")]
_Out = Annotated[Path, typer.Option(metavar="FILE", help="Where to write the new roster; must not exist.")]


@roster.command()
def make(
    party_files: Annotated[list[Path], typer.Argument(metavar="PARTY_FILES...", help="Each party's .party file.")],
    out: _Out = Path(ROSTER),
) -> None:
    """Make a roster of the public files of all parties, and print its digest for people to compare."""
    from secure_fu.deployment.founding.setup import make_roster, read_party_file, write_roster

    made = make_roster(read_party_file(path) for path in party_files)
    write_roster(out, made)
    _print(made, out)


@roster.command()
def show(
    path: _Roster,
    fingerprints: Annotated[bool, typer.Option("--fingerprints", help="Show each party's fingerprint too.")] = False,
) -> None:
    """Print a roster's parties and its digest."""
    from secure_fu.deployment.founding.setup import digest_lines, fingerprint, read_roster

    read = read_roster(path)
    for party in read.parties:
        print(f"{party.name}  {party.role.value}")
        for line in digest_lines(fingerprint(party)) if fingerprints else ():
            print(f"    {line}")
    _print(read, path)


@roster.command()
def diff(old: _Roster, new: _Roster) -> None:
    """Say what a new roster changes."""
    from secure_fu.deployment.founding.setup import read_roster
    from secure_fu.deployment.upkeep import difference

    found = difference(read_roster(old), read_roster(new))
    for what in ("added", "removed", "rotated"):
        print(f"{what}: {', '.join(getattr(found, what)) or 'nobody'}")


@roster.command()
def change(
    path: _Roster,
    party_files: Annotated[
        list[Path] | None, typer.Argument(metavar="[PARTY_FILES...]", help="Parties that come, or have new keys.")
    ] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A party that goes; repeatable.")] = None,
    unsigned: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A party whose old keys are lost or stolen: its fingerprint was compared."),
    ] = None,
    out: _Out = Path("roster-next.bin"),
) -> None:
    """Make a new roster from an old one. New keys have to be signed by the old ones."""
    from secure_fu.deployment.founding.setup import read_party_file, read_roster, write_roster
    from secure_fu.deployment.upkeep import changed_roster, difference

    old = read_roster(path)
    files = [read_party_file(one) for one in party_files or ()]
    made = changed_roster(old, files=files, remove=remove or (), unsigned=unsigned or ())
    write_roster(out, made)
    found = difference(old, made)
    for what in ("added", "removed", "rotated"):
        print(f"{what}: {', '.join(getattr(found, what)) or 'nobody'}")
    _print(made, out)


@roster.command()
def pin(
    node: Annotated[Path, typer.Argument(metavar="DIR", help="This node's directory, with its keys.bin.")],
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder of public files that you were given.")],
    digest: Annotated[str, typer.Option(metavar="DIGITS", help="The bundle's digest, as it was read out to you.")],
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="Take a policy that demands something else than the pinned one.")
    ] = False,
) -> None:
    """Believe these parties and these terms from now on, on this machine. Stop the node first."""
    from secure_fu.deployment.founding.setup import parse_digest
    from secure_fu.deployment.upkeep import pin as pin_bundle
    from secure_fu.protocol import read_policy

    pinned = pin_bundle(node, bundle, digest=parse_digest(digest), accept_terms=accept_terms)
    print(f"Pinned in {node}, for {', '.join(pinned.parties)}.")
    if pinned.change is not None:
        for what in ("added", "removed", "rotated"):
            print(f"{what}: {', '.join(getattr(pinned.change, what)) or 'nobody'}")
    if pinned.new_keys:
        print("The new keys are in use; the old ones are destroyed.")
    policy = read_policy(node / POLICY)
    print(
        f"Terms: unit {policy.unit.value}, epsilon {policy.budget.epsilon:g} at delta {policy.budget.delta:g} for "
        f"training and deletions together, noise multiplier at least {policy.noise_multiplier:.4g}, at least "
        f"{policy.minimum_cohort} clients in a sum, {policy.colluders} of them not trusted; opened by "
        f"{policy.terms.threshold} of {policy.terms.members}, of whom {policy.terms.corrupt} may be corrupt."
    )


def _print(made: Roster, path: Path) -> None:
    from collections import Counter

    from secure_fu.deployment.founding.setup import digest_lines

    counts = Counter(party.role.value for party in made.parties)
    print(f"{path}: {', '.join(f'{count} {role}' for role, count in sorted(counts.items()))}. Digest:")
    for line in digest_lines(made.digest):
        print(f"  {line}")
