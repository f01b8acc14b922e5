"""What every page has in common: the template environment, and how a page and its pictures get onto the disk."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from secure_fu.errors import RunDirectoryError
from secure_fu.report import text
from secure_fu.report.canvas import Picture

__all__ = ["environment", "flat", "write_page"]


def environment() -> Environment:
    """Templates of this package, everything escaped, figures written as :mod:`secure_fu.report.text` does."""
    made = Environment(
        loader=PackageLoader("secure_fu.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        bytes=text.byte_count,
        count=text.count,
        decimal=text.decimal,
        duration=text.duration,
        interval=text.interval,
        percent=text.percent,
        signed=text.signed,
        signed_points=text.signed_points,
        base64=lambda data: base64.b64encode(data).decode("ascii"),
    )
    return made


def flat(config: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """A nested configuration as dotted keys and their values in words."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{key}", text.MISSING if value is None else str(value)


def write_page(directory: Path, name: str, page: str, pictures: Sequence[Picture]) -> Path:
    """Write a page and, beside it, ``plots/*.png``; what is there is overwritten.

    Raises:
        RunDirectoryError: the directory cannot be written.
    """
    target = directory / name
    try:
        plots = directory / "plots"
        plots.mkdir(exist_ok=True)
        for picture in pictures:
            (plots / f"{picture.name}.png").write_bytes(picture.png)
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunDirectoryError(f"the report cannot be written to {str(directory)!r}: {error.strerror}") from error
    return target
