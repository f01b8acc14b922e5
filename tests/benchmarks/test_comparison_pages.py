"""Pages and pictures of made-up cells; the jobs of a run; where names may stand in a picture."""

from __future__ import annotations

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import unlearning
from comparison.gathered import Comparison
from comparison.pages import overview, page
from comparison.picture import spread_apart
from comparison.results_file import ResultsFile
from comparison.tasks import Task, cast_of, tasks

SHORTER = {"rounds": 40, "rate_factor": 2.0, "test_accuracy": 0.93, "full_accuracy": 0.934}


def task(**changes):
    return Task(
        **{
            "name": "made/up",
            "title": "Made up",
            "preset": "digits-silos",
            "requests": ("client", "class"),
            "seeds": 3,
            "shorter": (20,),
            "relearn_rate": 0.01,
            **changes,
        }
    )


def result(seed, *, peers=True):
    """A cell in which `good` is like retraining and `bad` is 20 points below."""
    draw = np.random.default_rng(seed)

    def figures(loss=0.0):
        return {
            "test_accuracy": 0.93 - loss + draw.normal(0, 0.002),
            "retain_accuracy": 0.94 - loss + draw.normal(0, 0.002),
            "forget_accuracy": 0.1,
            "forget_loss": 5.0,
            "backdoor_success": 0.01,
            "membership_auc": 0.5,
            "relearn_steps": 50.0,
            "output_distance": 0.2 + draw.normal(0, 0.003),
        }

    def row(kind, rounds, loss=0.0):
        epsilon = {"value": 5.0, "delta": 1e-5, "group_size": 1}
        return {
            "figures": figures(loss),
            "guarantee": {"kind": kind, "text": kind, "epsilon": 1.5, "group_size": 3, "view": "every release"},
            "rounds": rounds,
            "client_seconds": rounds / 100.0,
            "upload_bytes": 20000 * rounds,
            "epsilon": [{"subject": "retained", "phase": "training+unlearning", **epsilon}],
            "confidentiality": dict.fromkeys(("phase", "pair", "who_asked"), epsilon),
        }

    rows = {
        "original": {"figures": figures(), "guarantee": {"kind": "none"}, "rounds": 0},
        "retrained": row("exact", 100),
        "shorter": row("exact", 40),
        "good": row("certified", 12),
        "bad": row("heuristic", 10, 0.2),
        "rollback": {"refused": "no checkpoint will do"},
        **{
            f"{name} {length}": row(kind, length, 0.1)
            for length in (10, 12)
            for name, kind in (("finetune", "baseline"), ("scratch", "exact"))
        },
    }
    own = {"retrained": row("exact", 100), "FedEraser": row("none", 49, 0.05)}
    pairs = {"0-1": 0.2, "0-2": 0.201, "1-2": 0.199}
    references = [figures(), figures()]
    return {
        "rows": rows,
        "references": references,
        "pairs": pairs,
        "forgotten": 14,
        "scheme": "plain" if seed else "kahe",
        "dimension": 100,
        "training_rounds": 100,
        "shorter": SHORTER,
        "peers": {"rows": own, "references": references, "pairs": pairs} if peers else {"refused": "not theirs"},
    }


@pytest.fixture(scope="module")
def comparison():
    return Comparison(task(), "client", {seed: json.loads(json.dumps(result(seed))) for seed in range(4)})


def test_a_comparison_ranks_and_leaves_other_lengths_out(comparison):
    assert comparison.rows[-1] == "bad"
    assert "finetune 10" in comparison.rows
    assert "finetune 12" not in comparison.rows
    groups = {entry.row: entry.groups for entry in comparison.ranked}
    assert not set(groups["bad"]) & set(groups["retrained"])
    assert set(groups["good"]) & set(groups["retrained"])


def test_a_method_is_held_against_baselines_of_its_own_length(comparison):
    assert comparison.against("bad", "scratch").ratio == pytest.approx(2.0, rel=0.1)
    assert comparison.against("good", "scratch").ratio < 0.3
    without = json.loads(json.dumps(result(0)))
    del without["rows"]["scratch 12"]
    assert Comparison(task(), "client", {0: without}).against("good", "scratch") is None


def test_a_page_says_what_was_measured_and_what_was_not_run(comparison):
    text, drawn = page(comparison.task, [comparison], SHORTER)
    assert "- `rollback`: no checkpoint will do" in text
    assert "*FedEraser, sees every update*" in text
    assert "certified: epsilon 1.50 for 3 units together, against every release" in text
    assert "seed 0" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| `bad` | heuristic")]
    assert "-20." in line
    columns = {line.count("|") for line in text.splitlines() if line.startswith("| `bad`")}
    headers = {line.count("|") for line in text.splitlines() if line.startswith("| row")}
    assert columns == headers
    assert drawn.png.startswith(b"\x89PNG")
    assert overview({"made/up": [comparison]}, request="class") is None
    assert overview({"made/up": [comparison]}, request="client").name == "trade-off-client"


def test_one_seed_makes_a_page_without_intervals():
    alone = Comparison(task(), "client", {0: json.loads(json.dumps(result(0, peers=False)))})
    text, _ = page(alone.task, [alone], SHORTER)
    assert "nan" not in text
    assert "FedEraser, FedRecover`: not theirs" in text
    json.dumps(alone.to_json(), allow_nan=False)


def test_names_in_a_picture_never_overlap():
    draw = np.random.default_rng(0)
    for _ in range(200):
        wanted = sorted(draw.uniform(0, 2, draw.integers(1, 18)))
        placed = spread_apart(wanted, spacing=0.1, low=0.0, high=2.0)
        assert min(placed) >= -1e-9
        assert max(placed) <= 2.0 + 1e-9
        assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(placed))
    assert spread_apart([0.5, 1.5], spacing=0.1, low=0.0, high=2.0) == [0.5, 1.5]
    assert spread_apart([], spacing=0.1, low=0.0, high=1.0) == []


def run_of(path, **options):
    defaults = {"quick": False, "data": None, "seeds": None, "processes": 0, "pages_only": False}
    return unlearning._Run(SimpleNamespace(**{**defaults, **options}), ResultsFile(path), "/nowhere", {})


def test_a_run_does_each_job_once_and_goes_on_after_a_stop(tmp_path, monkeypatch):
    (made,) = [entry for entry in tasks(quick=False) if entry.name == "breast-cancer/logistic"]
    done = []

    def work(job):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(unlearning._key(job))
        if job["kind"] == "scan":
            entries = [{"rounds": rounds, "rate_factor": 1.0, "test_accuracy": 0.9} for rounds in (30, 60)]
            return {"scan": entries, "full": 60}
        return {"number": len(done)}

    monkeypatch.setattr(unlearning, "run_job", work)
    path = tmp_path / "cells.jsonl"
    stopped = run_of(path)
    with pytest.raises(KeyboardInterrupt):
        stopped.all([(made, ["client"])])
    stopped._results.close()
    assert len(done) == 5  # three scans and two cells
    done.clear()
    again = run_of(path)
    with pytest.raises(KeyboardInterrupt):
        again.all([(made, ["client"])])
    again._results.close()
    assert again.shorter(made)["rounds"] == 30
    assert len(done) == 5  # and none of the first five again
    assert "cell breast-cancer/logistic/client/0" not in done
    done.clear()
    last = run_of(path)
    last.all([(made, ["client"])])
    assert len(done) == 3
    schemes = [job["scheme"] for job in last.cells(made, "client")]
    assert schemes == ["kahe"] + ["plain"] * 9


@pytest.mark.parametrize("request_name", ["client", "client-late", "records-1", "records-5", "class"])
def test_requests_cover_what_their_names_say(request_name):
    (made,) = [entry for entry in tasks(quick=False) if entry.name == "digits/mlp"]
    cast = cast_of(made, made.config(3, request_name), request_name, None)
    count, total = len(cast.forgotten), len(cast.forgotten) + len(cast.retained)
    assert total == 1437
    if request_name.startswith("records"):
        assert count == round(total * float(request_name[-1]) / 100)
        assert sum(mask.any() for mask in cast.marks.values()) > 3  # spread over the silos
        assert cast.trigger is None
    elif request_name == "class":
        assert set(cast.forgotten.labels.tolist()) == {3}
        assert 3 not in cast.retained.labels
    else:
        assert set(cast.forgotten.labels.tolist()) == {0}  # the trigger's label
        assert len(np.unique(cast.forgotten_classes)) == 10
        assert cast.trigger is not None
        assert bool(cast.scenario.joins) is (request_name == "client-late")
    assert len(cast.forgotten_classes) == count


def test_seeds_for_settings_are_not_those_of_the_figures(tmp_path):
    for entry in tasks(quick=False):
        run = run_of(tmp_path / "cells.jsonl", data="somewhere")
        scans = {job["seed"] for job in run.scans(entry)}
        cells = set(range(entry.seeds))
        assert not scans & cells
        run._results.close()


def test_numbers_of_seeds_are_those_that_were_promised():
    for entry in tasks(quick=False):
        assert entry.seeds >= (5 if entry.needs_data else 10)
    assert {"mlp", "logistic", "head", "cnn"} == {entry.name.split("/")[1] for entry in tasks(quick=False)}
    assert not math.isnan(sum(entry.relearn_rate for entry in tasks(quick=True)))
