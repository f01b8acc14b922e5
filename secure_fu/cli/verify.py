"""`secure-fu verify`: check from outside what a run released."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from secure_fu.cli.verify_certificate import CertificateOptions, looks_like_a_certificate, verify_certificate
from secure_fu.errors import ArgumentError, RecordError, RunDirectoryError, WireError
from secure_fu.file_names import LEDGER, POLICY, ROSTER, TRANSCRIPT

if TYPE_CHECKING:
    from secure_fu.protocol import VerifiedBranch

__all__ = ["verify"]

T = TypeVar("T")


def verify(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A run directory; or a transcript, a certificate, a folder of certificates: these need --roster.",
        ),
    ],
    roster: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The roster that you pinned. Default: the run directory's own roster.bin."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The policy that you pinned. Default: the run directory's own policy.toml."),
    ] = None,
    transcript: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of a certificate: the transcript that it speaks of.")
    ] = None,
    begins_later: Annotated[
        bool,
        typer.Option("--begins-later", help="The transcript is of a later roster than rounds that are charged."),
    ] = False,
    ledger: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of a certificate: the server's ledger, or a copy.")
    ] = None,
    model_before: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of a certificate: the model before, .safetensors or .npy.")
    ] = None,
    model_after: Annotated[Path | None, typer.Option(metavar="FILE", help="The same for the model after.")] = None,
    chain: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Of a certificate: the folder with those before it.")
    ] = None,
    audit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of a certificate: the audit.json that it quotes.")
    ] = None,
    request: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Of a certificate: a signed request that it names; repeatable."),
    ] = None,
    deletion_policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of a certificate: the deletion policy that you pinned, as deletion.toml."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Of a certificate: print the findings as JSON.")] = False,
) -> None:
    """Check from outside what a run released, or what a deletion certificate says: offline, with what you pinned.

    Of a run: who signed, who took part, who agreed to open, in which order. Of a certificate: its signature, its chain,
    its hashes, and every epsilon, computed again from the charges.
    """
    options = CertificateOptions(
        roster=roster,
        policy=policy,
        transcript=transcript,
        begins_later=begins_later,
        ledger=ledger,
        model_before=model_before,
        model_after=model_after,
        chain=chain,
        audit=audit,
        requests=tuple(request or ()),
        deletion_policy=deletion_policy,
        as_json=json_,
    )
    if _is_certificate(path):
        verify_certificate(path, options)
        return
    if options.own:
        raise ArgumentError(options.own[0], str(path), "a certificate's file or folder, for this option is of those")
    from secure_fu.crypto import Roster
    from secure_fu.privacy import PrivacyLedger
    from secure_fu.protocol import read_policy, verify_transcript
    from secure_fu.protocol.verification import verify_against_ledger

    files = _transcript_files(path, roster, policy)
    pinned_roster = _read(
        "--roster", files.roster, "a roster, as a run's roster.bin", lambda: Roster.decode(files.roster.read_bytes())
    )
    pinned_policy = None
    if files.policy is not None:
        chosen = files.policy
        pinned_policy = _read("--policy", chosen, "a policy, as a run's policy.toml", lambda: read_policy(chosen))
        if pinned_policy.roster_digest != pinned_roster.digest:
            raise ArgumentError("--policy", str(chosen), f"a policy for the roster in {files.roster}, not for another")
    branches = verify_transcript(files.transcript, roster=pinned_roster, policy=pinned_policy)
    unreleased = None
    if files.ledger is not None:
        with PrivacyLedger.open(files.ledger, read_only=True) as opened:
            unreleased = verify_against_ledger(branches, opened)
    console = Console()
    if branches:
        console.print(_branch_table(branches))
    parties = f"{len(pinned_roster.parties)} parties"
    for line in (*_heads(branches), f"Roster {pinned_roster.digest.hex()}, {parties}, from {files.roster}", ""):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for line in _findings(files, branches, unreleased):
        console.print(line, "", sep="\n", markup=False, highlight=False)


def _is_certificate(path: Path) -> bool:
    try:
        return looks_like_a_certificate(path)
    except OSError:
        return False  # what follows says why it cannot be read


@dataclass(frozen=True, kw_only=True)
class _TranscriptFiles:
    """What a transcript is checked with; `from_run` names what the run itself brought along."""

    transcript: Path
    roster: Path
    policy: Path | None
    ledger: Path | None
    from_run: tuple[str, ...]


def _transcript_files(path: Path, roster: Path | None, policy: Path | None) -> _TranscriptFiles:
    try:
        if path.is_file():
            if roster is None:
                raise ArgumentError(
                    "--roster", None, "the roster's file, to check a transcript without its run directory"
                )
            files = _TranscriptFiles(transcript=path, roster=roster, policy=policy, ledger=None, from_run=())
        elif path.is_dir():
            files = _files_of_run(path, roster, policy)
        else:
            raise ArgumentError("PATH", str(path), "an existing run directory or transcript file")
        with files.transcript.open("rb"):
            return files
    except OSError as error:
        raise ArgumentError("PATH", str(path), f"something that can be read ({error.strerror})") from None


def _files_of_run(folder: Path, roster: Path | None, policy: Path | None) -> _TranscriptFiles:
    own = {name: folder / name for name in (TRANSCRIPT, ROSTER, POLICY, LEDGER)}
    there = {name for name, file in own.items() if file.is_file()}
    needed = {TRANSCRIPT} | ({ROSTER} if roster is None else set())
    if not needed <= there:
        if {"config.toml", ROSTER} <= {file.name for file in folder.iterdir()}:
            raise RunDirectoryError(f"PATH is {str(folder)!r}, a run that ended before its first release")
        missing = " and no ".join(sorted(needed - there, reverse=True))
        raise RunDirectoryError(f"PATH is {str(folder)!r}, which holds no {missing}; expected the folder of a run")
    from_run = ("roster",) if roster is None else ()
    if policy is None and POLICY in there:
        policy, from_run = own[POLICY], (*from_run, "policy")
    return _TranscriptFiles(
        transcript=own[TRANSCRIPT],
        roster=own[ROSTER] if roster is None else roster,
        policy=policy,
        ledger=own[LEDGER] if LEDGER in there else None,
        from_run=from_run,
    )


def _read(option: str, path: Path, expected: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except (OSError, WireError, RecordError) as error:
        raise ArgumentError(option, str(path), f"{expected} ({error})") from None


def _branch_table(branches: Collection[VerifiedBranch]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("branch", overflow="fold")
    table.add_column("releases", justify="right", no_wrap=True)
    table.add_column("opened by")
    for branch in branches:
        table.add_row(Text(branch.name), str(len(branch.releases)), Text(branch.openers))
    return table


def _heads(branches: Collection[VerifiedBranch]) -> Iterator[str]:
    yield from ("", "Heads: who has the same head of a branch has the same releases.") if branches else ()
    yield from (f"{branch.head.hex()}  {branch.name}" for branch in branches)
    yield ""


def _findings(files: _TranscriptFiles, branches: Collection[VerifiedBranch], unreleased: int | None) -> Iterator[str]:
    """In plain words what holds now, and what may still be otherwise."""
    from secure_fu.crypto import scheme

    if not branches:
        yield f"Nothing to check: {files.transcript} holds no release."
    else:
        yield (
            "Checked: every release is signed by the server and follows the one before it; every client in its sum "
            "signed its own upload to that round, and they are at least the round's minimum cohort; those who open "
            "signed for exactly that list of uploads."
            + ("" if files.policy is None else f" Every round keeps to the policy in {files.policy}.")
            + (
                ""
                if unreleased is None
                else " The run's ledger has charged every release, as its header says, to those who took part."
            )
        )
    if any(
        release.parameter_set == scheme("plain").parameter_set for branch in branches for release in branch.releases
    ):
        yield "INSECURE: --scheme plain: uploads were not encrypted, and whoever saw them knows every contribution."
    if unreleased:
        yield (
            f"The ledger has charged {unreleased} more round{'s' * (unreleased > 1)} without a release here: opened or "
            "not, they count as spent; or lines are missing at the end of a branch."
        )
    if files.policy is None:
        yield "Not checked, for want of a policy (--policy): that noise, clipping and cohorts are what was agreed."
    yield (
        "Not checked, for a transcript cannot show it: that a released sum is the sum of the uploads; that no release "
        "is missing at the end of a branch, or a whole branch; that clients bounded and noised what they sent."
    )
    if files.from_run:
        yield (
            f"NOT PINNED: the {' and the '.join(files.from_run)} came from the run directory itself, and whoever wrote "
            "it may have chosen other parties or rules. Compare the roster's digest with what you know, or give your "
            f"own copies: {' '.join(f'--{name} FILE' for name in files.from_run)}."
        )
