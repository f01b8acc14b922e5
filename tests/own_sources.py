"""The sources of secure_fu as text, and what each module imports and calls: for the tests of how it is built."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "secure_fu"
GOOD = '"""Words."""\nfrom __future__ import annotations\n__all__ = []\n'  # a module with nothing to find in it


@dataclass(frozen=True)
class Source:
    """A module by its dotted name, with its text."""

    name: str
    text: str
    is_package: bool = False

    @property
    def part(self) -> str:
        """The package or module right below secure_fu; "" for secure_fu itself."""
        return ([*self.name.split("."), ""])[1]

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)


def read_sources(package: Path = PACKAGE) -> list[Source]:
    sources = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        sources.append(Source(".".join(parts[:-1] if is_package else parts), path.read_text("utf-8"), is_package))
    return sources


def imported(source: Source) -> Iterator[str]:
    """Dotted names of everything imported anywhere in a module, inside functions and TYPE_CHECKING blocks as well."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = source.name.split(".")
                parents = parents[: len(parents) - node.level + source.is_package]
                base = ".".join([*parents, base] if base else parents)
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) == "import_module" and isinstance(node.args[0], ast.Constant):
            yield str(node.args[0].value)


def called(node: ast.Call) -> str:
    """The last part of the name of what is called."""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def own_part(name: str) -> str | None:
    """The part of secure_fu that an imported name belongs to, "" for secure_fu itself, None for other packages."""
    parts = name.split(".")
    return None if parts[0] != "secure_fu" else ([*parts, ""])[1]


def graph_of(sources: list[Source]) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for source in sources:
        targets = {part for name in imported(source) if (part := own_part(name))}
        graph.setdefault(source.part, set()).update(targets - {source.part})
    graph.pop("", None)  # secure_fu/__init__.py re-exports from everywhere
    return graph


SOURCES = read_sources()
