"""The imports of secure_fu are the arrows of its architecture, and no module uses what no module may use.

The checks work on source text, so that the tests at the end can show that each of them finds what it is there to find.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_sources import GOOD, PACKAGE, ROOT, SOURCES, Source, called, graph_of, imported

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
SECURE_MODULES = {"secure_fu.learning.sampling"}
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


def forbidden(sources: list[Source]) -> list[str]:
    found = []
    for source in sources:
        for name in used(source):
            if within(name, FORBIDDEN):
                found.append(f"{source.name} uses {name}")
            secure = source.part in SECURE_PARTS or source.name in SECURE_MODULES
            if secure and within(name, WEAK_RANDOMNESS):
                found.append(f"{source.name} draws from {name}")
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Call):
                continue
            lazy = source.name in LAZY
            unreadable = called(node) == "import_module" and not (lazy or isinstance(node.args[0], ast.Constant))
            if unreadable or (isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS):
                found.append(f"{source.name} calls {called(node)}")
    return found


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


def test_nothing_forbidden_is_used() -> None:
    assert forbidden(SOURCES) == []


@pytest.mark.parametrize("name", ["crypto", "privacy"])
def test_links_at_the_top_point_into_the_package(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert link.readlink() == Path("secure_fu", name)
    assert link.resolve() == PACKAGE / name


@pytest.mark.parametrize("folder", ["tests", "examples", "benchmarks"])
def test_nobody_imports_the_links(folder: str) -> None:
    own = [Source(path.stem, path.read_text("utf-8")) for path in (ROOT / folder).rglob("*.py")]
    tops = {(source.name, name.split(".")[0]) for source in own for name in imported(source)}
    assert not [pair for pair in tops if pair[1] in ("crypto", "privacy")]


# What follows shows that each check finds what it is there to find.


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
