"""How `secure-fu local` tells its story: lines for people, a spinner on a terminal, and a recording of all of it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

from secure_fu.errors import ArgumentError

if TYPE_CHECKING:
    from secure_fu.local_federation.commands import Said

__all__ = ["ConsoleTeller", "write_recording"]

WIDTH: Final = 100
_TITLE: Final = "secure-fu local"
# As rich draws it, without fonts from elsewhere: a picture in a page may not fetch anything.
_SVG: Final = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: "DejaVu Sans Mono", "Liberation Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


class ConsoleTeller:
    """Tells on a console, and remembers it in a console of fixed width.

    Args:
        console: for the story.
        progress: for what passes; nothing is drawn unless it is a terminal.
        folder: named in the first line.
        transport: named in the first line.

    Attributes:
        recording: all that was told.
    """

    def __init__(self, console: Console, progress: Console, *, folder: str, transport: str) -> None:
        self._console = console
        self._progress = progress
        self._steps = 0
        self.recording = Console(
            record=True, file=io.StringIO(), width=WIDTH, force_terminal=True, color_system="truecolor"
        )
        self._tell(Text(f"$ secure-fu local --transport {transport}", style="bold"))
        console.print(Text(f"Everything is in {folder}; logs of all processes too."), soft_wrap=True)

    def step(self, title: str) -> None:
        """See :class:`~secure_fu.local_federation.story.Teller`."""
        self._steps += 1
        self._tell(Text())
        self._tell(Text(f"{self._steps}. {title}", style="bold cyan"))

    def say(self, line: str) -> None:
        """See :class:`~secure_fu.local_federation.story.Teller`."""
        self._tell(_indented(Text(line), 3))

    def ran(self, said: Said, *, since: str = "") -> None:
        """See :class:`~secure_fu.local_federation.story.Teller`."""
        self._tell(_indented(Text(f"$ {said.command}", style="green"), 3, " \\"))
        output = said.output.splitlines()
        if since and since in output:
            output = ["[...]", *output[output.index(since) :]]
        for line in (*output, *said.complaint.splitlines()):
            self._tell(_indented(Text(line, style="dim"), 3))
        if said.code:
            self._tell(_indented(Text(f"exit code {said.code}", style="yellow"), 3))

    @contextmanager
    def waiting(self, what: str) -> Iterator[Callable[[str], None]]:
        """See :class:`~secure_fu.local_federation.story.Teller`."""
        if not self._progress.is_terminal:
            yield lambda news: None
            return
        with self._progress.status(what) as status:
            yield lambda news: status.update(f"{what}: {news}")

    def _tell(self, line: Text | list[Text]) -> None:
        for one in line if isinstance(line, list) else [line]:
            self._console.print(one, soft_wrap=True)
            self.recording.print(one, soft_wrap=True)


def write_recording(recording: Console, picture: Path) -> list[Path]:
    """Write a recording as a picture; and as text between the markers of its document, where there is one.

    The document is NAME.md beside the picture NAME.svg or one folder up, and the markers are `<!-- NAME -->` and
    `<!-- /NAME -->`, each on a line.

    Returns:
        the files that were written.

    Raises:
        ArgumentError: a file cannot be written, or the document has no such markers.
    """
    text = recording.export_text(clear=False, styles=False)
    drawn = recording.export_svg(title=_TITLE, code_format=_SVG, clear=False)
    name = picture.stem
    places = (folder / f"{name}.md" for folder in (picture.absolute().parent, picture.absolute().parent.parent))
    written = [picture]
    try:
        picture.write_text(drawn, encoding="utf-8")
        for document in places:
            if document.is_file():
                document.write_text(_between_markers(document, name, text), encoding="utf-8")
                return [*written, document]
    except OSError as error:
        raise ArgumentError("--record", str(picture), f"a file that can be written ({error.strerror})") from None
    return written


def _between_markers(document: Path, name: str, text: str) -> str:
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    before, found, rest = document.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ArgumentError("--record", str(document), f"a document with the lines {begin.strip()} and {end.strip()}")
    body = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
    return f"{before}{begin}\n```text\n{body}\n```\n\n{end}{after}"


def _indented(line: Text, by: int, broken: str = "") -> list[Text]:
    """Lines of a fixed width, each with an indent; the text's own further indent is kept.

    Args:
        line: at most one line.
        by: columns.
        broken: what ends a line that goes on in the next.
    """
    own = len(line.plain) - len(line.plain.lstrip(" "))
    line.rstrip()
    if len(line) <= WIDTH - by:
        return [Text.assemble(" " * by, line)]
    parts = line[own:].wrap(_RULER, WIDTH - by - own - _FURTHER - len(broken))
    for place, part in enumerate(parts):
        part.rstrip()
        part.append(broken if place < len(parts) - 1 else "")
    return [Text.assemble(" " * (by + own + _FURTHER * bool(place)), part) for place, part in enumerate(parts)]


_FURTHER: Final = 2
_RULER: Final = Console(file=io.StringIO(), width=WIDTH)
