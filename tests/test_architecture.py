"""The import graph of secure_fu has the arrows of its architecture, and no module does what no module may do.

The checks work on source text, so that the tests at the end can show that each of them finds what it is there to find.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "secure_fu"
MOST_LINES = 450

# What each package may import of secure_fu, beside itself and the errors. crypto and privacy meet in protocol only.
ALLOWED: dict[str, set[str]] = {
    "compiled": set(),
    "errors": set(),
    "file_names": set(),
    "interrupts": set(),
    "lazy": set(),
    "scheme_names": set(),
    "discrete_gaussian": {"compiled"},
    "crypto": {"compiled", "discrete_gaussian"},
    "privacy": {"compiled", "discrete_gaussian", "interrupts"},
    "learning": set(),
    "protocol": {"crypto", "privacy", "learning", "interrupts"},
    "training": {"privacy", "learning", "protocol"},
    "unlearning": {"privacy", "learning", "protocol", "training"},
    "audit": {"privacy", "learning", "protocol"},
    "deletion": {"crypto", "privacy", "learning", "protocol"},
    "report": {"privacy"},
}
# Where the parts are put together. These may import all packages and each other, short of a cycle; crypto only where
# identities are made or checked.
COMPOSITION = {
    "config",
    "config_file",
    "scenario",
    "planning",
    "federation",
    "evaluation",
    "results",
    "run_directory",
    "simulation",
    "auditor",
    "deployment",
    "flower",
    "local_federation",
    "cli",
}
CRYPTO_COMPOSERS = {"federation", "simulation", "auditor", "deployment", "flower", "local_federation", "cli"}

# Third-party packages that only some parts may import.
ONLY_IN: dict[str, set[str]] = {
    "flwr": {"flower"},
    "tenseal": {"crypto"},
    "cryptography": {"crypto", "flower"},  # there for TLS certificates and Flower's own node keys
    "dp_accounting": {"privacy"},
    "opacus": {"privacy", "learning"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
    "rich": {"report", "cli"},
    "typer": {"cli"},
}
NOT_IN: dict[str, set[str]] = {"torch": {"crypto"}}

FORBIDDEN = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "torch.load"}
FORBIDDEN_CALLS = {"__import__", "eval", "exec"}  # and import_module, unless of a name that can be read here
# One looks names up when they are first used, the other the model that an operator names in its own file.
LAZY = {"secure_fu.lazy", "secure_fu.deployment.founding.terms"}
# Where noise, keys and secret sampling are made, randomness comes from the operating system or from an explicit stream.
SECURE_PARTS = {"crypto", "discrete_gaussian", "privacy", "protocol"}
WEAK_RANDOMNESS = {
    "random",
    "numpy.random",
    "torch.manual_seed",
    "torch.seed",
    "torch.random",
    "torch.Generator",
    "torch.rand",
    "torch.randn",
    "torch.randint",
    "torch.randperm",
    "torch.normal",
    "torch.bernoulli",
    "torch.distributions",
}


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


def used(source: Source) -> Iterator[str]:
    """Dotted names that a module imports or reaches through attributes, with import aliases resolved."""
    aliases: dict[str, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    yield from imported(source)
    for node in ast.walk(source.tree):
        chain: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            chain.insert(0, inner.attr)
            inner = inner.value
        if chain and isinstance(inner, ast.Name):
            yield ".".join([aliases.get(inner.id, inner.id), *chain])


def within(name: str, names: set[str]) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in names)


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


def wrong_arrows(sources: list[Source]) -> list[str]:
    found = []
    for part, targets in graph_of(sources).items():
        if part not in ALLOWED and part not in COMPOSITION:
            found.append(f"secure_fu.{part} has no place in the architecture; give it one in this test")
            continue
        for target in targets - {"errors"}:
            if part in COMPOSITION:
                allowed = target != "cli" and (target != "crypto" or part in CRYPTO_COMPOSERS)
            else:
                allowed = target in ALLOWED[part]
            if not allowed:
                found.append(f"secure_fu.{part} imports secure_fu.{target}")
    return found


def wrong_packages(sources: list[Source]) -> list[str]:
    found = []
    for source in sources:
        for name in imported(source):
            top = name.split(".")[0]
            if (top in ONLY_IN and source.part not in ONLY_IN[top]) or source.part in NOT_IN.get(top, set()):
                found.append(f"{source.name} imports {top}")
            if top in ("crypto", "privacy", "tests"):
                found.append(f"{source.name} imports top-level {top}")
    return found


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def forbidden(sources: list[Source]) -> list[str]:
    found = []
    for source in sources:
        for name in used(source):
            if within(name, FORBIDDEN):
                found.append(f"{source.name} uses {name}")
            if source.part in SECURE_PARTS and within(name, WEAK_RANDOMNESS):
                found.append(f"{source.name} draws from {name}")
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Call):
                continue
            lazy = source.name in LAZY
            unreadable = called(node) == "import_module" and not (lazy or isinstance(node.args[0], ast.Constant))
            if unreadable or (isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS):
                found.append(f"{source.name} calls {called(node)}")
    return found


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


SOURCES = read_sources()
LAZY_PACKAGES = [source for source in SOURCES if source.is_package and "lazily(__name__" in source.text]


def test_the_package_is_read() -> None:
    assert {"secure_fu", "secure_fu.errors", "secure_fu.crypto", "secure_fu.report.page"} <= {s.name for s in SOURCES}


def test_arrows_run_one_way() -> None:
    assert wrong_arrows(SOURCES) == []


def test_third_party_packages_stay_where_they_belong() -> None:
    assert wrong_packages(SOURCES) == []


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("secure_fu.crypto", {"torch", "flwr", "dp_accounting", "secure_fu.privacy", "secure_fu.learning"}),
        ("secure_fu.privacy", {"flwr", "tenseal", "cryptography", "secure_fu.crypto", "secure_fu.learning"}),
        ("secure_fu.learning", {"flwr", "tenseal", "cryptography", "secure_fu.crypto", "secure_fu.privacy"}),
    ],
)
def test_a_package_can_be_used_alone(module: str, absent: set[str]) -> None:
    """What is loaded in the end, also by way of other packages."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not absent & set(done.stdout.split())


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


def test_packages_form_no_cycle() -> None:
    assert cycle(graph_of(SOURCES)) == []


@pytest.mark.parametrize("part", sorted({source.part for source in SOURCES if source.part}))
def test_rooms_of_a_package_form_no_cycle(part: str) -> None:
    assert cycle(rooms_of(SOURCES, part)) == []


def test_nothing_forbidden_is_used() -> None:
    assert forbidden(SOURCES) == []


def test_modules_are_short_and_say_what_they_are() -> None:
    assert badly_kept(SOURCES) == []


@pytest.mark.parametrize("name", ["crypto", "privacy"])
def test_links_at_the_top_point_into_the_package(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert link.readlink() == Path("secure_fu", name)
    assert link.resolve() == PACKAGE / name


@pytest.mark.parametrize("folder", ["tests", "examples", "benchmarks"])
def test_nobody_imports_the_links(folder: str) -> None:
    own = [
        Source(path.stem, path.read_text("utf-8")) for path in (ROOT / folder).rglob("*.py") if path != Path(__file__)
    ]
    tops = {(source.name, name.split(".")[0]) for source in own for name in imported(source)}
    assert not [pair for pair in tops if pair[1] in ("crypto", "privacy")]


# What follows shows that each check finds what it is there to find.

GOOD = '"""Words."""\nfrom __future__ import annotations\n__all__ = []\n'


@pytest.mark.parametrize(
    ("name", "line", "finding"),
    [
        ("secure_fu.crypto.x", "import secure_fu.privacy.grid", "secure_fu.crypto imports secure_fu.privacy"),
        ("secure_fu.privacy.x", "from secure_fu.crypto import scheme", "secure_fu.privacy imports secure_fu.crypto"),
        ("secure_fu.privacy.x", "from secure_fu import crypto", "secure_fu.privacy imports secure_fu.crypto"),
        ("secure_fu.learning.x", "from ..privacy import grid", "secure_fu.learning imports secure_fu.privacy"),
        ("secure_fu.unlearning.x", "from secure_fu.crypto import a", "secure_fu.unlearning imports secure_fu.crypto"),
        (
            "secure_fu.unlearning.x",
            "def f():\n    import secure_fu.audit",
            "secure_fu.unlearning imports secure_fu.audit",
        ),
        (
            "secure_fu.privacy.x",
            "import importlib\nimportlib.import_module('secure_fu.learning')",
            "secure_fu.privacy imports secure_fu.learning",
        ),
        ("secure_fu.protocol.x", "import secure_fu.simulation", "secure_fu.protocol imports secure_fu.simulation"),
        ("secure_fu.results", "import secure_fu.crypto", "secure_fu.results imports secure_fu.crypto"),
        ("secure_fu.planning", "import secure_fu.crypto", "secure_fu.planning imports secure_fu.crypto"),
        ("secure_fu.simulation", "import secure_fu.cli", "secure_fu.simulation imports secure_fu.cli"),
        ("secure_fu.errors", "import secure_fu.learning", "secure_fu.errors imports secure_fu.learning"),
        ("secure_fu.novelty", "", "secure_fu.novelty has no place in the architecture; give it one in this test"),
    ],
)
def test_a_wrong_arrow_is_found(name: str, line: str, finding: str) -> None:
    assert wrong_arrows([Source(name, GOOD + line)]) == [finding]


def test_right_arrows_pass() -> None:
    lines = "import secure_fu.crypto\nfrom secure_fu.privacy import Grid\nfrom .messages import Header\nimport numpy"
    assert wrong_arrows([Source("secure_fu.protocol.x", GOOD + lines)]) == []
    assert wrong_arrows([Source("secure_fu.protocol", GOOD + "from .x import y", is_package=True)]) == []
    assert wrong_arrows([Source("secure_fu.federation", GOOD + lines.replace(".messages", ".planning"))]) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("secure_fu.crypto.x", "import torch"),
        ("secure_fu.crypto.x", "def f():\n    from torch import nn"),
        ("secure_fu.learning.x", "from flwr.app import Message"),
        ("secure_fu.privacy.x", "import tenseal as ts"),
        ("secure_fu.simulation", "from rich.console import Console"),
        ("secure_fu.protocol.x", "from crypto import scheme"),
        ("secure_fu.training.x", "import privacy.grid"),
    ],
)
def test_a_misplaced_package_is_found(name: str, line: str) -> None:
    assert len(wrong_packages([Source(name, GOOD + line)])) == 1


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("secure_fu.learning.x", "import pickle"),
        ("secure_fu.learning.x", "from pickle import loads"),
        ("secure_fu.learning.x", "import torch as t\nt.load('x')"),
        ("secure_fu.learning.x", "import importlib\nimportlib.import_module('sec' + 'ure_fu')"),
        ("secure_fu.learning.x", "from importlib import import_module\nimport_module('pickle')"),
        ("secure_fu.learning.x", "__import__('pickle')"),
        ("secure_fu.learning.x", "eval('1')"),
        ("secure_fu.privacy.x", "import random"),
        ("secure_fu.privacy.x", "import numpy as np\nnp.random.default_rng(0)"),
        ("secure_fu.protocol.x", "from numpy.random import default_rng"),
        ("secure_fu.protocol.x", "import torch\ntorch.manual_seed(0)"),
        ("secure_fu.crypto.x", "from numpy import random as r\nr.normal()"),
    ],
)
def test_a_forbidden_name_is_found(name: str, line: str) -> None:
    assert forbidden([Source(name, GOOD + line)])


def test_seeded_generators_are_fine_where_nothing_is_secret() -> None:
    line = "import numpy as np\nnp.random.default_rng(0)\nimport importlib.resources"
    assert forbidden([Source("secure_fu.learning.partition", GOOD + line)]) == []


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
