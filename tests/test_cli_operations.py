"""`secure-fu keys`, `roster`, `found`, `epoch`, `backup`, `restore`, `seen`: an operator's day, by commands alone."""

from __future__ import annotations

import re
import shlex
import stat
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from secure_fu.cli import app as whole_app
from secure_fu.cli import backup, found, keys, roster
from secure_fu.deployment.founding.setup import read_roster
from secure_fu.errors import ArgumentError, ConfigError, CryptoError, RosterError, SecureFUError

HOSPITALS = Path(__file__).parents[1] / "examples" / "policies" / "hospitals.toml"
PARTIES = {
    **{f"hospital-{number}": "client" for number in range(6)},
    **{f"member-{number}": "member" for number in range(7)},
    "server": "server",
}

app = typer.Typer()
app.add_typer(keys.keys, name="keys")
app.add_typer(roster.roster, name="roster")
for command in (found.found, found.epoch, backup.backup, backup.restore, backup.seen):
    app.command()(command)


def run(*arguments: object) -> str:
    """What a command prints; its error is raised as the command line's entry point sees it."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)
    if isinstance(result.exception, SecureFUError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def digest_in(output: str) -> str:
    """The digest that a command prints last, as somebody would type it."""
    lines = re.findall(r"^ +[1-4]  ((?:[0-9a-f]{4} ?){4})$", output, re.MULTILINE)
    return " ".join(lines[-4:])


@pytest.fixture
def founded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, role in PARTIES.items():
        output = run("keys", "new", name, "--party", f"{name}:{role}")
        assert f"{name}.party" in output
    run("roster", "make", *(f"{name}/{name}.party" for name in PARTIES), "--out", "roster.bin")
    output = run("found", HOSPITALS, "--roster", "roster.bin", "--out", "server")
    assert "the budget holds 12 deletion windows of 20 rounds" in output
    assert "cover ends" not in output
    return digest_in(output)


def test_an_operators_day(founded, tmp_path):
    shown = run("roster", "show", "roster.bin", "--fingerprints")
    assert "hospital-0  client" in shown
    assert digest_in(shown).replace(" ", "") == read_roster(Path("roster.bin")).digest.hex()
    pinned = run("roster", "pin", "hospital-0", "server/bundle", "--digest", founded)
    assert "Pinned in hospital-0, for hospital-0." in pinned
    assert "epsilon 8 at delta 1e-05" in pinned
    assert stat.S_IMODE(Path("hospital-0/keys.bin").stat().st_mode) == 0o600

    run("keys", "rotate", "hospital-0")
    changed = run("roster", "change", "roster.bin", "hospital-0/hospital-0.party", "--out", "next.bin")
    assert "rotated: hospital-0" in changed
    assert "rotated: hospital-0" in run("roster", "diff", "roster.bin", "next.bin")
    begun = run("epoch", "server", "--roster", "next.bin")
    assert "epoch 2, 6 clients" in begun
    pinned = run("roster", "pin", "hospital-0", "server/bundle", "--digest", digest_in(begun))
    assert "The new keys are in use" in pinned
    assert not Path("hospital-0/keys-next.bin").exists()

    copied = run("backup", "server", "--out", "copy.tar")
    assert "records of clients and members" in copied
    assert "keys.bin was not in the copy" in run("restore", "copy.tar", "--out", "again", "--nothing-newer")
    assert "to be handed to whoever restores" in run("seen", "hospital-0", "--out", "seen.json")
    run("restore", "copy.tar", "--out", "once-more", "--seen", "seen.json")


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("keys", "new", "hospital-0", "--party", "x:client"), CryptoError, "exists"),
        (("keys", "new", "y", "--party", "x:boss"), ArgumentError, "NAME:ROLE"),
        (("keys", "new", "y", "--party", "x:client", "--party", "x:member"), ArgumentError, "each name once"),
        (("keys", "new", "y", "--party", "a b:client"), ArgumentError, "characters of"),
        (("keys", "rotate", "nowhere"), CryptoError, "cannot be read"),
        (("roster", "make", "hospital-0/hospital-0.party", "--out", "x.bin"), ArgumentError, "server"),
        (("roster", "make", "server/keys.bin", "--out", "x.bin"), ArgumentError, "PARTY_FILE"),
        (("roster", "show", "nothing.bin"), ArgumentError, "ROSTER"),
        (("roster", "pin", "hospital-0", "server/bundle", "--digest", "00" * 32), ArgumentError, "--digest"),
        (("roster", "pin", "hospital-0", "server/bundle", "--digest", "zz"), ArgumentError, "64 hexadecimal"),
        (("roster", "change", "roster.bin", "--remove", "nobody"), ArgumentError, "--remove"),
        (("found", HOSPITALS, "--out", "server"), ArgumentError, "founded once"),
        (("found", "nothing.toml", "--out", "other"), ConfigError, "FEDERATION"),
        (("found", HOSPITALS, "--out", "hospital-0"), ArgumentError, "the keys of 'server' alone"),
        (("epoch", "server", "--roster", "roster.bin"), ArgumentError, "another roster"),
        (("restore", "nothing.tar", "--out", "x"), ArgumentError, "--nothing-newer"),
        (("restore", "nothing.tar", "--out", "x", "--nothing-newer"), SecureFUError, "nothing.tar"),
        (("backup", "hospital-0", "--out", "x.tar"), SecureFUError, "federation.json is missing"),
    ],
)
def test_bad_input_is_named(founded, arguments, error, says):
    with pytest.raises(error) as caught:
        run(*arguments)
    assert says in str(caught.value)


def test_cover_that_ends_soon_is_said(founded):
    terms = HOSPITALS.read_text().replace("deletion_reserve = 0.925", "deletion_reserve = 0.8")
    Path("covered.toml").write_text(terms.replace("cover = false", "cover = true "))
    Path("other").mkdir(mode=0o700)
    (Path("other") / "keys.bin").write_bytes(Path("server/keys.bin").read_bytes())
    (Path("other") / "keys.bin").chmod(0o600)
    output = run("found", "covered.toml", "--out", "other")
    assert "the budget holds 4 deletion windows" in output
    assert "every 14 days, whoever asks: cover ends" in output


def test_a_digest_that_is_not_the_bundles_is_refused_without_saying_which_is(founded):
    with pytest.raises(ArgumentError, match="ask again, or do not pin it") as caught:
        run("roster", "pin", "hospital-0", "server/bundle", "--digest", "00" * 32)
    assert founded.replace(" ", "") not in str(caught.value)
    assert founded[:9] not in str(caught.value)
    typed = "\n".join(f"  {row + 1}  {founded[20 * row : 20 * row + 19]}" for row in range(4))
    assert "Pinned in hospital-0" in run("roster", "pin", "hospital-0", "server/bundle", "--digest", typed)


def test_a_backup_says_what_its_heads_show(founded):
    copied = run("backup", "server", "--out", "copy.tar")
    assert "not that nothing came after it" in copied
    assert "restore --seen" in copied
    with pytest.raises(ArgumentError, match=r"--head is 'HEAD'; expected 64.*secure-fu verify"):
        run("restore", "copy.tar", "--out", "again", "--head", "HEAD")
    with pytest.raises(ArgumentError, match=r"--seen is None; expected this, --head or --transcript"):
        run("restore", "copy.tar", "--out", "again")


def test_somebody_elses_keys_do_not_get_into_a_new_roster(founded):
    run("keys", "new", "thief", "--party", "hospital-0:client")
    with pytest.raises(RosterError, match="not signed by those of before"):
        run("roster", "change", "roster.bin", "thief/hospital-0.party", "--out", "next.bin")
    assert not Path("next.bin").exists()


def commands_in(document: Path) -> list[list[str]]:
    """The arguments of every `secure-fu` command in a document's shell blocks."""
    blocks = re.findall(r"^```bash\n(.*?)^```", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = (re.search(r"(?:^|\s)secure-fu (.*)", line) for line in lines)  # another program may start it
    return [shlex.split(command[1]) for command in found if command]


DEPLOY = Path(__file__).parents[1] / "docs" / "deploy.md"


@pytest.mark.parametrize("arguments", commands_in(DEPLOY), ids=" ".join)
def test_the_commands_of_the_documentation_are_ones_that_there_are(arguments):
    """As far as reading them goes; nothing is run."""
    command = typer.main.get_command(whole_app)
    while hasattr(command, "commands"):
        assert arguments[0] in command.commands, f"there is no command {arguments[0]}"
        command, arguments = command.commands[arguments[0]], arguments[1:]
    command.make_context("secure-fu", list(arguments)).close()


def test_commands_that_there_are_not_are_found():
    with pytest.raises(AssertionError):
        test_the_commands_of_the_documentation_are_ones_that_there_are(["fly"])
    with pytest.raises(Exception, match=r"--wings"):
        test_the_commands_of_the_documentation_are_ones_that_there_are(["backup", "server", "--wings"])
