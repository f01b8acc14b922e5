"""What the documents say is so: examples run, tables match the code, and every name in SECURITY.md exists."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import os
import re
import subprocess
import sys
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from secure_fu import DeletionRequest, Federation, Records, SecureFUError, errors, make_plan
from secure_fu.cli import app
from secure_fu.config import SimulationConfig
from secure_fu.config_file import from_dict, load_preset, preset_names, with_overrides
from secure_fu.crypto import Fixed, Nested, Party, Roster
from secure_fu.crypto import wire as wire_module
from secure_fu.simulation import Simulation
from secure_fu.unlearning import METHODS, Heuristic

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows_of(text: str, *headers: str) -> list[list[str]]:
    """The rows of all tables with these headers."""
    found: list[list[str]] = []
    lines = text.splitlines()
    for index, line in enumerate(lines):
        if line.startswith("|") and cells(line) == list(headers):
            for row in lines[index + 2 :]:
                if not row.startswith("|"):
                    break
                found.append(cells(row))
    return found


def code(cell: str) -> str:
    found = re.fullmatch(r"`([^`]*)`", cell)
    assert found is not None, f"expected code in backticks, not {cell}"
    return found.group(1)


# README.md


def test_the_readme_example_runs_as_it_stands(tmp_path):
    (example,) = blocks(text_of("README.md"), "python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 18, "about fifteen lines"
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr
    guarantee, attack = finished.stdout.splitlines()
    assert guarantee.startswith("Exact: it goes back to round 10, before the data took part")
    value, low, high = (float(figure) for figure in re.findall(r"\d\.\d\d", attack))
    assert low <= value <= high
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["simulate", "test"])
def test_the_readme_names_the_commands_on_lines_of_their_own(target):
    assert re.search(rf"^make {target}\b", text_of("README.md"), flags=re.MULTILINE)


def test_commands_in_the_documents_are_known():
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert {"simulate", "ledger"} <= known
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), flags=re.MULTILINE))
    for path in DOCUMENTS:
        for block in blocks(path.read_text("utf-8"), "sh"):
            for line in block.splitlines():
                command = re.match(r"(?:[A-Z]+=\S+ )?(?:\.venv/bin/)?secure-fu (\S+)", line)
                assert command is None or command.group(1) in known, line
                target = re.match(r"make (\S+)", line)
                assert target is None or target.group(1) in targets, line
                preset = re.search(r"--preset (\S+)", line)
                named = "digits-silos" if preset is None else preset.group(1)
                with_overrides(load_preset(named), re.findall(r"--set (\S+)", line))


# SECURITY.md


def guarantees() -> list[list[str]]:
    return rows_of(text_of("SECURITY.md"), "guarantee", "module", "test")


def test_modules_and_tests_of_the_guarantees_exist():
    assert len(guarantees()) >= 20
    defined: dict[str, set[str]] = {}
    for guarantee, modules, tests in guarantees():
        for module in re.findall(r"`([^`]*)`", modules):
            importlib.import_module(module)
        named = re.findall(r"`([^`]*)`", tests)
        assert named, f"no test for: {guarantee}"
        for test in named:
            file, _, function = test.partition("::")
            if file not in defined:
                tree = ast.parse(text_of(file))
                defined[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert function in defined[file], f"{test} does not exist"
            assert function.startswith("test_")


# Links and images


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = path.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)\)", text):
        if not target.startswith("https://"):
            assert (path.parent / target).exists(), target
    for file in re.findall(r"`((?:secure_fu|tests|examples|benchmarks|docs)/[\w./-]+)`", text):
        assert (ROOT / file).exists(), file


def test_every_document_is_linked_from_the_readme():
    text = text_of("README.md")
    assert all(f"](docs/{path.name})" in text for path in (ROOT / "docs").glob("*.md"))


# docs/architecture.md and docs/adding-a-method.md


def test_the_example_of_an_unlearning_method_runs(monkeypatch):
    examples = blocks(text_of("docs/adding-a-method.md"), "python")
    module = types.ModuleType("uphill")
    monkeypatch.setitem(sys.modules, "uphill", module)  # dataclasses look their module up
    exec(compile("\n".join(examples), "docs/adding-a-method.md", "exec"), module.__dict__)
    generator = torch.Generator().manual_seed(0)
    clients = {
        name: Records(torch.randn(30, 4, generator=generator), torch.randint(2, (30,), generator=generator))
        for name in ("a", "b", "c")
    }
    model = torch.nn.Linear(4, 2)
    plan = make_plan(model, clients=3, nominal_units=90, minimum_cohort=3, rounds=4)
    halfway, uphill = module.Halfway(), module.Uphill()
    with Federation(model, clients, plan=plan, methods=[halfway, uphill]) as federation:
        federation.train()
        shrunk = federation.unlearn(DeletionRequest.whole_client("b"), halfway, adaptive=False)
        after = federation.unlearn(DeletionRequest.whole_client("b"), uphill, adaptive=False)
    assert (shrunk.cost.rounds, after.cost.rounds) == (len(shrunk.traffic), len(after.traffic))
    assert shrunk.cost.epsilon == shrunk.epsilon
    assert after.cost.epsilon == after.epsilon
    assert isinstance(after.guarantee, Heuristic)
    assert len(after.traffic) == 3
    epsilon = {(entry.subject.value, entry.phase.value): entry.value for entry in after.epsilon}
    assert epsilon["forgotten", "unlearning"] > 0.0
    assert epsilon["retained", "unlearning"] == 0.0


def test_the_parts_of_the_house_are_those_that_exist():
    rows = rows_of(text_of("docs/architecture.md"), "part", "what it holds", "may import")
    named = {part.rstrip("/") for row in rows for part in re.findall(r"`([^`]*)`", row[0])}
    there = {path.name for path in (ROOT / "secure_fu").iterdir() if not path.name.startswith(("_", "py.typed"))}
    shared = {"compiled.py", "errors.py", "file_names.py", "interrupts.py", "lazy.py", "presets", "scheme_names.py"}
    assert named | shared == there


# docs/protocol.md


def message_types() -> dict[str, type]:
    """Every message of the protocol that travels, and the two of crypto that are its ground."""
    return {
        registered.tag: cls
        for cls, registered in wire_module._BY_TYPE.items()
        if (cls.__module__.startswith("secure_fu.protocol.") and not registered.tag.startswith("logged-"))
        or cls in (Party, Roster)
    }


def documented_messages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for line in text_of("docs/protocol.md").splitlines():
        heading = re.match(r"`([a-z-]+)`[^|]*:$", line)
        if heading is not None:
            name = heading.group(1)
            found[name] = []
        elif line.startswith("| `") and name:
            field, kind, *_ = cells(line)
            found[name].append((code(field), kind))
        elif not line.startswith("|") and line:
            name = ""
    return found


def kind_in_words(kind: object) -> str:
    if kind is wire_module.U32:
        return "U32"
    if kind is wire_module.U64:
        return "U64"
    if kind is wire_module.F64:
        return "F64"
    if isinstance(kind, Fixed):
        return f"Fixed({kind.size})"
    if isinstance(kind, Nested):
        return f"Nested({kind.message_type.__name__})"
    if isinstance(kind, wire_module.Sequence):
        return f"Sequence({kind_in_words(kind.item)}, {kind.max_items})"
    if isinstance(kind, wire_module.Choice):
        return f"Choice({kind.members.__name__})"
    assert isinstance(kind, (wire_module.Text, wire_module.Blob))
    return f"{type(kind).__name__}({kind.max_bytes})"


def test_the_message_tables_are_those_of_the_code():
    documented = documented_messages()
    types_by_tag = message_types()
    assert set(documented) == set(types_by_tag)
    for tag, cls in types_by_tag.items():
        hints = typing.get_type_hints(cls, include_extras=True)
        fields = [(item.name, kind_in_words(hints[item.name].__metadata__[0])) for item in dataclasses.fields(cls)]
        assert documented[tag] == fields, tag


def test_errors_that_the_documents_name_exist():
    for path in DOCUMENTS:
        for name in re.findall(r"`(\w+(?:Error|Refusal|TooSmall|Aborted))`", path.read_text("utf-8")):
            assert issubclass(getattr(errors, name), SecureFUError), f"{name} in {path.name}"


# docs/simulation.md and docs/unlearning.md


def configuration_keys(kind: type = SimulationConfig, prefix: str = "") -> Iterator[tuple[str, object]]:
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[item.name]):
            yield from configuration_keys(hints[item.name], f"{prefix}{item.name}.")
        elif item.default is not dataclasses.MISSING:
            yield f"{prefix}{item.name}", item.default
        elif item.default_factory is not dataclasses.MISSING:
            yield f"{prefix}{item.name}", item.default_factory()
        else:
            yield f"{prefix}{item.name}", None


def test_every_configuration_key_is_documented_with_its_default():
    documented = {
        code(key): None if default == "required" else tomllib.loads(f"value = {code(default)}")["value"]
        for key, default, _ in rows_of(text_of("docs/simulation.md"), "key", "default", "meaning")
    }
    expected = {key: list(default) if isinstance(default, tuple) else default for key, default in configuration_keys()}
    assert list(documented) == list(expected), "the same keys in the same order"
    assert documented == expected


def test_every_preset_is_documented():
    rows = rows_of(text_of("docs/simulation.md"), "preset", "scenario", "data")
    assert {code(row[0]) for row in rows} == set(preset_names())


def test_every_method_and_setting_is_documented():
    text = text_of("docs/unlearning.md")
    rows = rows_of(text, "method", "one round sums", "enters at rate q (record, group)", "guarantee", "units")
    assert [code(row[0]) for row in rows] == list(METHODS)
    documented = {
        (code(method), code(setting)): None if default == "none" else tomllib.loads(f"value = {default}")["value"]
        for method, setting, default, _ in rows_of(text, "method", "setting", "default", "meaning")
    }
    expected = {
        (name, field.name): field.default
        for name, method in METHODS.items()
        for field in dataclasses.fields(method)  # type: ignore[arg-type]
    }
    assert documented == expected


def run_small(out: Path, scheme: str) -> dict[str, object]:
    config = from_dict(
        {
            "name": "small",
            "data": {"source": "digits", "clients": 3, "records": 150},
            "model": {"kind": "logistic"},
            "training": {"rounds": 3},
            "protocol": {"scheme": scheme, "minimum_cohort": 3},
            "deletion": {"scope": "client", "backdoor": True},
            "unlearning": {"methods": ["finetune"], "settings": {"finetune": {"length": 1}}},
        }
    )
    return Simulation(config, out).run()


@pytest.fixture(scope="module")
def small_run(tmp_path_factory) -> tuple[dict[str, object], Path]:
    out = tmp_path_factory.mktemp("run") / "out"
    return run_small(out, "kahe"), out


def paths_of(value: object, path: str, rows: set[str]) -> Iterator[str]:
    """Dotted paths of what a result holds; names of rows, packages and settings left general."""
    if isinstance(value, Mapping) and path != "config":
        for key, item in value.items():
            name = key
            if path in ("curves", "membership", "timing"):
                assert key in rows | {"total"}
                name = "<row>"
            elif path == "software":
                name = "<package>"
            yield from paths_of(item, f"{path}.{name}" if path else name, rows)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for item in value:
            yield from paths_of(item, f"{path}[]", rows)
    else:
        yield path


def test_every_path_of_a_result_is_documented(small_run):
    result, _ = small_run
    rows = {row["name"] for row in result["rows"]}
    found = set(paths_of(result, "", rows))
    documented = [code(row[0]) for row in rows_of(text_of("docs/simulation.md"), "path", "content")]
    assert len(documented) == len(set(documented))
    assert found <= set(documented), sorted(found - set(documented))
    # What this run does not have must be part of something that it has as null, or that another row has.
    for path in set(documented) - found:
        parent = path.rpartition(".")[0]
        assert parent in found or any(other.startswith(f"{path}.") for other in found), path


def test_the_files_of_a_run_are_documented(small_run, tmp_path):
    run_small(tmp_path / "plain", "plain")
    runs = {"kahe": small_run[1], "plain": tmp_path / "plain"}
    rows = {code(row[0]): row[1] for row in rows_of(text_of("docs/simulation.md"), "file", "content")}
    for scheme, out in runs.items():
        # Some files belong to some schemes only, and say so.
        expected = {name for name, content in rows.items() if "scheme" not in content or f"`{scheme}`" in content}
        assert expected < set(rows)
        patterns = {name: re.sub("<[a-z]+>", "*", name) for name in expected}
        assert [name for name, pattern in patterns.items() if not any(out.glob(pattern))] == []
        matched = {path for pattern in patterns.values() for path in out.glob(pattern)}
        assert {path for path in out.rglob("*") if path.is_file()} == matched


def test_the_example_of_checking_a_transcript_runs(small_run, tmp_path, monkeypatch, capsys):
    (example,) = blocks(text_of("docs/simulation.md"), "python")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(small_run[1], target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/simulation.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == [
        f"{name} {rounds} committee of 10, quorum 7, at most 3 corrupt"
        for name, rounds in (("original", 3), ("unlearn/retrain", 3), ("unlearn/finetune", 1))
    ]
