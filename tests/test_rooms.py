"""The packages of secure_fu and the rooms in them: no cycle, short modules, names that load no more than they need.

The checks work on source text, so that the tests at the end can show that each of them finds what it is there to find.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

import pytest
from own_sources import GOOD, SOURCES, Source, graph_of, imported

MOST_LINES = 450
LAZY_PACKAGES = [source for source in SOURCES if source.is_package and "lazily(__name__" in source.text]


def rooms_of(sources: list[Source], part: str) -> dict[str, set[str]]:
    """The same within a package: its sub-packages and its own modules, and what each imports of the others."""
    prefix = f"secure_fu.{part}."
    inside = [source for source in sources if source.name.startswith(prefix)]
    graph: dict[str, set[str]] = {source.name.removeprefix(prefix).split(".")[0]: set() for source in inside}
    for source in inside:
        room = source.name.removeprefix(prefix).split(".")[0]
        named = {name.removeprefix(prefix).split(".")[0] for name in imported(source) if name.startswith(prefix)}
        graph[room] |= (named & graph.keys()) - {room}
    return graph


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def badly_kept(sources: list[Source]) -> list[str]:
    found = []
    for source in sources:
        if source.text.count("\n") > MOST_LINES:
            found.append(f"{source.name} has more than {MOST_LINES} lines")
        if not ast.get_docstring(source.tree):
            found.append(f"{source.name} has no docstring")
        targets = [
            target.id
            for node in source.tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        ]
        if "__all__" not in targets:
            found.append(f"{source.name} has no __all__")
    return found


def lazy_and_typed(source: Source) -> tuple[set[str], set[str]]:
    """Dotted names that a package exports lazily, by its table; and those that a type checker is told of."""
    table: set[str] = set()
    typed: set[str] = set()
    for node in source.tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "_HOMES":
            assert node.value is not None
            homes = ast.literal_eval(node.value)
            table = {f"{source.name}.{home}.{name}" for home, names in homes.items() for name in names}
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            imports = [one for one in node.body if isinstance(one, ast.ImportFrom)]
            typed = {f"{one.module}.{alias.asname}" for one in imports for alias in one.names}
    return table, typed


def test_packages_form_no_cycle() -> None:
    assert cycle(graph_of(SOURCES)) == []


@pytest.mark.parametrize("part", sorted({source.part for source in SOURCES if source.part}))
def test_rooms_of_a_package_form_no_cycle(part: str) -> None:
    assert cycle(rooms_of(SOURCES, part)) == []


def test_modules_are_short_and_say_what_they_are() -> None:
    assert badly_kept(SOURCES) == []


@pytest.mark.parametrize("source", LAZY_PACKAGES, ids=lambda source: source.name)
def test_a_lazy_package_exports_what_a_type_checker_is_told_of(source: Source) -> None:
    table, typed = lazy_and_typed(source)
    assert table == typed
    package = importlib.import_module(source.name)
    assert sorted(name.rpartition(".")[2] for name in table) == package.__all__
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("package", "name", "absent"),
    [
        ("secure_fu", "SecureFUError", {"torch", "numpy"}),
        ("secure_fu.deployment", "make_keys", {"torch", "flwr"}),
        ("secure_fu.deployment", "open_queue", {"torch", "flwr"}),
        ("secure_fu.deployment", "FederationServer", {"flwr"}),
        ("secure_fu.deployment", "LocalNodes", {"torch", "numpy", "flwr"}),
        ("secure_fu.flower", "make_node_key", {"torch", "flwr"}),
    ],
)
def test_a_name_does_not_load_what_its_neighbours_need(package: str, name: str, absent: set[str]) -> None:
    code = f"import sys; from {package} import {name}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not absent & set(done.stdout.split())


# What follows shows that each check finds what it is there to find.


def test_a_cycle_is_found() -> None:
    sources = [
        Source("secure_fu.results", GOOD + "import secure_fu.scenario"),
        Source("secure_fu.scenario", GOOD + "def f():\n    from secure_fu.planning import make_plan"),
        Source("secure_fu.planning", GOOD + "from secure_fu import results"),
    ]
    assert set(cycle(graph_of(sources))) == {"results", "scenario", "planning"}


def test_a_cycle_of_rooms_is_found() -> None:
    sources = [
        Source("secure_fu.deletion.queue", GOOD + "from .file import QueueFile", is_package=True),
        Source("secure_fu.deletion.queue.file", GOOD + "from secure_fu.deletion.service import DeletionService"),
        Source("secure_fu.deletion.service", GOOD + "def f():\n    from secure_fu.deletion.queue import RequestQueue"),
    ]
    assert set(cycle(rooms_of(sources, "deletion"))) == {"queue", "service"}
    assert cycle(rooms_of(sources[:2], "deletion")) == []


def test_a_name_that_is_in_one_list_alone_is_found() -> None:
    lines = 'if TYPE_CHECKING:\n    from secure_fu.x.a import B as B\n_HOMES: Final = {"a": ("B", "C")}\n'
    table, typed = lazy_and_typed(Source("secure_fu.x", GOOD + lines, is_package=True))
    assert table - typed == {"secure_fu.x.a.C"}
    assert typed == {"secure_fu.x.a.B"}


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (GOOD + "\n" * MOST_LINES, f"secure_fu.x has more than {MOST_LINES} lines"),
        (GOOD.replace('"""Words."""\n', ""), "secure_fu.x has no docstring"),
        (GOOD.replace("__all__ = []\n", ""), "secure_fu.x has no __all__"),
    ],
)
def test_a_badly_kept_module_is_found(text: str, finding: str) -> None:
    assert badly_kept([Source("secure_fu.x", text)]) == [finding]
