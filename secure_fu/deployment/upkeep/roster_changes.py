"""Pinning by hand, and rosters that change: rotated keys, parties that come and go.

A roster is never changed in place. Another one is made, the server begins an *epoch* with it, and the operator of each
machine pins the new bundle after comparing its digest. An epoch has its own roster, policy digest, run ids and
transcript; model, checkpoints, ledgers and records go on. So nothing that was spent is forgotten: the server's ledger
keeps its branches, and a client's own record counts every round that the client has answered, whatever the run.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

from secure_fu.crypto import CommitteeTerms, Role, Roster
from secure_fu.crypto.identity_file import read_identities
from secure_fu.deployment.founding.bundle import BUNDLE_FILES, bundle_digest, node_file
from secure_fu.deployment.founding.founded import check_methods
from secure_fu.deployment.founding.setup import PartyFile, check_cast, own_parties, read_roster
from secure_fu.errors import ArgumentError, CryptoError, RosterError
from secure_fu.federation.founding import Founding, read_founding
from secure_fu.file_names import FOUNDING, KEYS, NEXT_KEYS, NODE, POLICY, ROSTER
from secure_fu.protocol import Policy, read_policy
from secure_fu.protocol.files import destroy_file, write_whole
from secure_fu.scheme_names import KAHE

__all__ = ["Pinned", "RosterChange", "changed_roster", "difference", "next_policy", "pin"]

_MAY_DIFFER: Final = ("roster_digest", "committee", "server")
_EPOCH_FACTS: Final = ("epoch", "before")


@dataclass(frozen=True, kw_only=True)
class RosterChange:
    """What is different in a new roster; names, sorted.

    Attributes:
        added, removed: parties. One whose role changes is removed and added.
        rotated: parties with other keys than before.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    rotated: tuple[str, ...]


def difference(old: Roster, new: Roster) -> RosterChange:
    """What a new roster changes."""
    before, after = ({(party.name, party.role): party for party in roster.parties} for roster in (old, new))
    return RosterChange(
        added=tuple(sorted(name for name, _ in after.keys() - before.keys())),
        removed=tuple(sorted(name for name, _ in before.keys() - after.keys())),
        rotated=tuple(sorted(key[0] for key in before.keys() & after.keys() if before[key] != after[key])),
    )


def changed_roster(
    old: Roster, *, files: Iterable[PartyFile] = (), remove: Collection[str] = (), unsigned: Collection[str] = ()
) -> Roster:
    """A new roster from an old one.

    Args:
        files: of parties that come, or that come with new keys: these have to be signed by the keys of before.
        remove: names of parties that go.
        unsigned: names of parties whose keys of before are lost or stolen: somebody has compared the fingerprints of
            the new ones with them in person.

    Raises:
        ArgumentError: a name to remove is not there, or nothing changes, or no federation can be run with the outcome.
        RosterError: the keys of before have not signed.
        SignatureError: a signature does not verify.
    """
    parties = {party.name: party for party in old.parties}
    for name in remove:
        if name not in parties:
            raise ArgumentError("--remove", name, f"a party of the roster, as {', '.join(list(parties)[:8])}")
        del parties[name]
    for file in files:
        file.check()
        before = parties.get(file.party.name)
        if before is not None and before != file.party and before.name not in unsigned:
            file.check_follows(before)
        parties[file.party.name] = file.party
    new = Roster.of(parties.values())
    check_cast(new)
    if new == old:
        raise ArgumentError("PARTY_FILE", [], "at least one party that comes, goes or has new keys")
    return new


def next_policy(policy: Policy, roster: Roster, *, scheme_name: str, terms: CommitteeTerms | None = None) -> Policy:
    """The policy of a new epoch: the same demands of another roster.

    Args:
        scheme_name: of the encryption, which stays.
        terms: of the committee; None keeps threshold, quorum and the number of corrupt members.

    Raises:
        ArgumentError: these do not fit the number of members; or too few clients are left for the minimum cohort; or
            the roster opens sums in another way than the policy.
    """
    role = Role.MEMBER if scheme_name == KAHE else Role.KEY_HOLDER
    members = roster.names(role)
    if len(roster.clients) < policy.minimum_cohort:
        raise ArgumentError("ROSTER", f"{len(roster.clients)} clients", f"at least {policy.minimum_cohort}, the cohort")
    if not members:
        raise ArgumentError("ROSTER", list(members), f"a {role.value}, which opens sums of scheme {scheme_name}")
    chosen = replace(policy.terms, members=len(members)) if terms is None else terms
    return replace(
        policy,
        server=roster.names(Role.SERVER)[0],
        committee=members,
        terms=chosen,
        roster_digest=roster.digest,
    )


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """What a node's operator has pinned.

    Attributes:
        parties: of this machine.
        change: of the roster against what was pinned before; None the first time.
        new_keys: whether keys that `secure-fu keys rotate` made came into use; the old ones are destroyed.
    """

    parties: tuple[str, ...]
    change: RosterChange | None
    new_keys: bool


def pin(node: Path, bundle: Path, *, digest: bytes, accept_terms: bool = False) -> Pinned:
    """Take the public files of a federation, or of its next epoch, as those that this node believes.

    Formal guarantees:
        Nothing is believed but a bundle with the digest that the operator was told by somebody they trust, whose roster
        has this machine's own keys. Records of the node are not touched: what a client has spent stays spent. An epoch
        that is older than the one that is pinned, another federation, and (unless accepted) other terms are refused.
    Edge cases:
        A kill leaves a directory whose policy and roster do not belong together, which no node opens; pinning again
        ends it.

    Args:
        node: has `keys.bin`, and after a rotation `keys-next.bin`.
        bundle: folder that `secure-fu found` or `secure-fu roster change` made.
        digest: of the bundle, 32 bytes.
        accept_terms: whether the policy may demand something else than the one that is pinned.

    Raises:
        ArgumentError: the bundle has another digest, its files do not belong together, or it is refused as above.
        RosterError: the roster has not the keys of this machine.
        ConfigError: a client lives here, and a method that the policy allows is not installed.
        CryptoError, RecordError: keys or files are missing or damaged.
    """
    found = bundle_digest(bundle)
    if found != digest:
        # Not what the bundle's own digest is: it would be pasted, and the comparison is with what somebody else said.
        raise ArgumentError("--digest", digest.hex(), "the bundle's, which is another one: ask again, or do not pin it")
    roster, policy = read_roster(bundle / ROSTER), read_policy(bundle / POLICY)
    founding = read_founding(bundle / FOUNDING)
    policy.check_roster(roster)
    if founding.roster_digest != roster.digest:
        raise ArgumentError("BUNDLE", str(bundle), f"files of one federation; {FOUNDING} is of another roster")
    keys = _keys_in(node, roster)
    names = tuple(own_parties(roster, read_identities(keys)))
    clients = tuple(name for name in names if roster.party(name).role is Role.CLIENT)
    if clients:  # only they run methods
        check_methods(policy, bundle / POLICY)
    change = None
    if (node / FOUNDING).exists():
        then = read_founding(node / FOUNDING)
        _check_goes_on(then, founding, node)
        if (node / ROSTER).exists():
            change = difference(read_roster(node / ROSTER), roster)
        with suppress(FileNotFoundError):
            _check_terms(read_policy(node / POLICY), policy, accept_terms)
    for name in (POLICY, *(name for name in BUNDLE_FILES if name != POLICY)):
        write_whole(node / name, (bundle / name).read_bytes())
    if not (node / NODE).exists():
        model = json.loads(founding.facts.get("model", "{}"))
        write_whole(node / NODE, node_file(names, model, has_data=bool(clients), clients=clients).encode())
    new_keys = keys.name == NEXT_KEYS
    if new_keys:
        destroy_file(node / KEYS)
        keys.replace(node / KEYS)
    return Pinned(parties=names, change=change, new_keys=new_keys)


def _keys_in(folder: Path, roster: Roster) -> Path:
    """Of the keys in use and those that are to follow, the file that the roster has."""
    candidates = [path for path in (folder / NEXT_KEYS, folder / KEYS) if path.exists()]
    if not candidates:
        raise CryptoError(f"{folder / KEYS} does not exist; `secure-fu keys new` makes it on this machine")
    for path in candidates:
        with suppress(RosterError):
            own_parties(roster, read_identities(path))
            return path
    return candidates[-1]


def _check_goes_on(then: Founding, now: Founding, node: Path) -> None:
    for name in sorted({*then.facts, *now.facts} - {*_EPOCH_FACTS}):
        if then.facts.get(name) != now.facts.get(name):
            raise ArgumentError("BUNDLE", name, f"the federation that {node} is of; another one needs another folder")
    if then.plan != now.plan or then.scheme_name != now.scheme_name:
        raise ArgumentError("BUNDLE", "plan", f"the federation that {node} is of; another one needs another folder")
    epochs = tuple(int(one.facts.get("epoch", "1")) for one in (then, now))
    if epochs[1] < epochs[0]:
        raise ArgumentError("BUNDLE", f"epoch {epochs[1]}", f"epoch {epochs[0]}, which is pinned, or a later one")
    if epochs[1] == epochs[0] and then != now:
        raise ArgumentError("BUNDLE", f"epoch {epochs[1]}", "the same files as those pinned for this epoch")


def _check_terms(then: Policy, now: Policy, accept: bool) -> None:
    for item in fields(Policy):
        if item.name not in _MAY_DIFFER and not accept and getattr(then, item.name) != getattr(now, item.name):
            raise ArgumentError(
                f"policy.{item.name}",
                getattr(now, item.name),
                f"{getattr(then, item.name)!r}, as it is pinned; --accept-terms takes the new terms",
            )
