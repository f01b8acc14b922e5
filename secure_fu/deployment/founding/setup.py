"""Keys and rosters: every machine makes its own keys; what is public of them is collected into a roster and pinned.

A :class:`PartyFile` is what a machine hands to whoever collects: the public half of an identity, signed by its own key,
and after a rotation by the key before it. It shows that whoever made it has the secret signing key. It does not show
who that is: people compare fingerprints, and the roster's digest, by telephone or in person.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from secure_fu.crypto import Identity, Party, Role, Roster
from secure_fu.crypto.identity import SIGNATURE_BYTES
from secure_fu.crypto.identity_file import make_identities, read_identities
from secure_fu.crypto.wire import Fixed, Nested, decode, encode, message
from secure_fu.crypto.wire import Sequence as Many
from secure_fu.errors import ArgumentError, CryptoError, RosterError, SignatureError, WireError
from secure_fu.file_names import KEYS, NEXT_KEYS
from secure_fu.protocol.files import write_whole

__all__ = [
    "Continuity",
    "PartyFile",
    "check_cast",
    "digest_lines",
    "fingerprint",
    "make_keys",
    "make_roster",
    "own_parties",
    "parse_digest",
    "parse_party",
    "read_party_file",
    "read_roster",
    "rotate_keys",
    "write_roster",
]

_SUFFIX: Final = ".party"
_POSSESSION: Final = "party-file"
_ROTATION: Final = "party-rotation"
_MOST_BYTES: Final = 1 << 16


@message("party-continuity")
@dataclass(frozen=True, kw_only=True)
class Continuity:
    """The key before: it signs the one that takes its place.

    Attributes:
        verify_key: Ed25519 public key of before, 32 bytes.
        signature: by it, over the new party.
    """

    verify_key: Annotated[bytes, Fixed(32)]
    signature: Annotated[bytes, Fixed(SIGNATURE_BYTES)]


@message("party-file")
@dataclass(frozen=True, kw_only=True)
class PartyFile:
    """The public half of an identity, with proof that its maker has the secret signing key.

    Not guaranteed:
        Who the maker is; and that it has the secret sealing key, which only an opened box shows. A party that gives
        somebody else's sealing key cannot read what is sealed to it, and harms itself.

    Attributes:
        party: name, role and public keys.
        signature: by the party's own key, over the party.
        before: none, or the key that this one takes the place of.
    """

    party: Annotated[Party, Nested(Party)]
    signature: Annotated[bytes, Fixed(SIGNATURE_BYTES)]
    before: Annotated[tuple[Continuity, ...], Many(Nested(Continuity), 1)] = ()

    def check(self) -> None:
        """Return only if the party signed itself.

        Raises:
            SignatureError: it did not.
        """
        _verify(self.party, _POSSESSION, self.party, self.signature)

    def check_follows(self, before: Party) -> None:
        """Return only if the key of `before` signed this one as its successor.

        Raises:
            RosterError: there is no such signature, or it is another party's.
            SignatureError: it does not verify.
        """
        if (before.name, before.role) != (self.party.name, self.party.role):
            raise RosterError(
                f"{self.party.name!r} as {self.party.role.value} cannot follow {before.name!r} as {before.role.value}"
            )
        if not any(one.verify_key == before.verify_key for one in self.before):
            raise RosterError(
                f"the new keys of {before.name!r} are not signed by those of before; if these are lost, compare "
                "fingerprints with the party in person and say so (--unsigned)"
            )
        _verify(before, _ROTATION, self.party, self.before[0].signature)


def parse_party(text: str) -> tuple[str, Role]:
    """Name and role from `name:role`.

    Raises:
        ArgumentError: it is not of this form, or there is no such role.
    """
    name, colon, role = text.rpartition(":")
    roles = [one.value for one in Role]
    if not colon or not name or role not in roles:
        raise ArgumentError("--party", text, f"NAME:ROLE, the role one of {', '.join(roles)}")
    return name, Role(role)


def make_keys(folder: Path, roles: Mapping[str, Role]) -> dict[str, Path]:
    """Draw keys for the parties of one machine: `keys.bin`, for its owner only, and a public file for each party.

    Args:
        folder: made if it is missing, for its owner only.
        roles: of each party, by name.

    Returns:
        the public files, by party.

    Raises:
        ArgumentError: no party is given, or a name is malformed.
        CryptoError: there are keys already, or a file cannot be written.
    """
    if not roles:
        raise ArgumentError("--party", [], "at least one NAME:ROLE")
    _make_folder(folder)
    return _publish(folder, make_identities(folder / KEYS, roles), before={})


def rotate_keys(folder: Path) -> dict[str, Path]:
    """Draw new keys for all parties of a machine, beside those that are in use until the new roster is pinned.

    The old keys sign the new ones, so that whoever knows the old roster can check that nobody else made them. After a
    theft that shows nothing: the thief could have signed as well, so compare fingerprints in person.

    Returns:
        the new public files, by party.

    Raises:
        CryptoError: there are no keys, or a rotation was begun and not ended, or a file cannot be written.
    """
    before = read_identities(folder / KEYS)
    roles = {name: identity.role for name, identity in before.items()}
    return _publish(folder, make_identities(folder / NEXT_KEYS, roles), before=before)


def _publish(folder: Path, identities: Mapping[str, Identity], *, before: Mapping[str, Identity]) -> dict[str, Path]:
    files = {}
    for name, identity in identities.items():
        public = encode(identity.party)
        old = before.get(name)
        signed = PartyFile(
            party=identity.party,
            signature=identity.sign(_POSSESSION, public),
            before=()
            if old is None
            else (Continuity(verify_key=old.party.verify_key, signature=old.sign(_ROTATION, public)),),
        )
        files[name] = folder / f"{name}{_SUFFIX}"
        _write(files[name], encode(signed))
    return files


def read_party_file(path: Path) -> PartyFile:
    """A party's public file, its own signature checked.

    Raises:
        ArgumentError: it cannot be read, or is no such file.
        SignatureError: its signature does not verify.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        read = decode(PartyFile, content)
    except (OSError, WireError) as error:
        expected = f"a public file that `secure-fu keys new` made ({error})"
        raise ArgumentError("PARTY_FILE", str(path), expected) from None
    try:
        read.check()
    except SignatureError:
        raise SignatureError(f"{path} is not signed by its own key: it was changed, or made by somebody else") from None
    return read


def make_roster(files: Iterable[PartyFile]) -> Roster:
    """The roster of these parties.

    Raises:
        ArgumentError: two share a name or a key; or there is no server, more than one, or no client, or nobody who
            opens sums, or both a committee and a key-holder.
    """
    roster = Roster.of(file.party for file in files)
    check_cast(roster)
    return roster


def check_cast(roster: Roster) -> None:
    """Refuse a roster that no federation can be run with.

    Raises:
        ArgumentError: as :func:`make_roster`.
    """
    servers, members, holders = (roster.names(role) for role in (Role.SERVER, Role.MEMBER, Role.KEY_HOLDER))
    if len(servers) != 1:
        raise ArgumentError("parties", list(servers), "exactly one in the role of the server")
    if len(roster.clients) < 2:
        raise ArgumentError("parties", sorted(roster.clients), "at least two clients")
    if bool(members) == bool(holders) or len(holders) > 1:
        raise ArgumentError(
            "parties",
            [*members, *holders],
            "members of a committee (scheme kahe) or one key-holder (bfv, plain), not both and not neither",
        )


def write_roster(path: Path, roster: Roster) -> None:
    """Write a roster to a file that does not exist.

    Raises:
        ArgumentError: it exists.
        CryptoError: it cannot be written.
    """
    if path.exists():
        raise ArgumentError("--out", str(path), "no file: a roster is never changed, another one is made")
    _write(path, roster.encode())


def read_roster(path: Path) -> Roster:
    """A roster from its file.

    Raises:
        ArgumentError: it cannot be read, or is no roster.
    """
    try:
        return Roster.decode(path.read_bytes())
    except (OSError, WireError) as error:
        raise ArgumentError("ROSTER", str(path), f"a roster that `secure-fu roster make` made ({error})") from None


def digest_lines(digest: bytes) -> tuple[str, ...]:
    """A digest of 32 bytes as four numbered lines of four groups, to be read out: ``1  3f2a 99c0 ...``.

    All 256 bits: whoever collects the keys could find two rosters that agree in half of them.
    """
    groups = re.findall("....", digest.hex())
    return tuple(f"{line + 1}  {' '.join(groups[4 * line : 4 * line + 4])}" for line in range(len(groups) // 4))


def parse_digest(text: str, option: str = "--digest", shown_by: str = "found") -> bytes:
    """The digest that somebody typed: 64 hexadecimal digits, in groups or not, with the numbers of its lines or not.

    Args:
        option: that it was given by.
        shown_by: the command that prints it.

    Raises:
        ArgumentError: they are not 64 such digits.
    """
    # A line's number stands alone and before groups of four, so that it is no digit of the digest's.
    words = re.sub("[:-]", " ", text).split()
    numbered = [place for place, word in enumerate(words) if place % 5 == 0 and word == str(place // 5 + 1)]
    groups = [word for place, word in enumerate(words) if place not in numbered]
    if numbered and (len(words) != 20 or len(numbered) != 4):
        groups = words
    digits = "".join(groups)
    if not re.fullmatch("[0-9a-fA-F]{64}", digits):
        expected = f"64 hexadecimal digits, as `secure-fu {shown_by}` prints them, with or without their line numbers"
        raise ArgumentError(option, text, expected)
    return bytes.fromhex(digits)


def fingerprint(party: Party) -> bytes:
    """SHA-256 of a party's public half, 32 bytes."""
    return hashlib.sha256(encode(party)).digest()


def own_parties(roster: Roster, identities: Mapping[str, Identity]) -> Sequence[str]:
    """Names of the identities, each of which the roster has with these very keys.

    Raises:
        RosterError: names the first party that it does not have so.
    """
    for name, identity in identities.items():
        if roster.party(name) != identity.party:
            raise RosterError(
                f"the roster has other keys, or another role, for {name!r} than this machine; make the roster from "
                f"its present {name}{_SUFFIX}"
            )
    return sorted(identities)


def _verify(signer: Party, domain: str, party: Party, signature: bytes) -> None:
    Roster.of([signer]).verify(signer.name, signer.role, domain, encode(party), signature)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CryptoError(f"{folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CryptoError(f"{folder} cannot be written to")


def _write(path: Path, content: bytes) -> None:
    """A public file: whole or not there, and readable by others."""
    try:
        write_whole(path, content)
        path.chmod(0o644)
    except OSError as error:
        raise CryptoError(f"{path} cannot be written: {error.strerror}") from error
