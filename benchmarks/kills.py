"""kill -9 at 200 random points of a federation's story, every party a process of its own.

A story: five clients on four nodes, a committee of three (or a key-holder, scheme bfv) and a server train; clients hand
in deletion requests, in some stories in private as well; the service executes and certifies two windows, with training
in between. Server, service, intake
and nodes are killed in all of it, at random times and at random ones of the places in the code where something has just
been written or is about to be, and started again. When a story has ended, its files and all that went over the sockets
are checked: field/oracles.py says for what.

    python benchmarks/kills.py [--points N] [--seed N] [--keep DIR] [--faults] [--quick] [--json FILE]

With --faults each fault of field/faults.py is planted in a short story, to see that the checks find it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the processes share few cores

import torch
from field.facts import Facts
from field.founding import Ask, Field, found_field
from field.oracles import violations
from field.outcomes import outcome_of, table, where
from field.places import places_of
from field.processes import open_server, say, start
from field.story import Scripted, Story
from harness import report

_METHODS = ("retrain", "rollback", "scrub")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a handful of kills")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--points", type=int, help="how many kills; 200, or 8 with --quick")
    parser.add_argument("--seed", type=int, default=0, help="of who is killed, when and where; times stay random")
    parser.add_argument("--faults", action="store_true", help="plant faults too; each has to be found")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="a new folder for what the stories leave")
    options = parser.parse_args()
    points = options.points or (8 if options.quick else 200)
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="fu-")) if options.keep is None else options.keep
    root.mkdir(exist_ok=True)
    try:
        figures = run(root, points, options.seed, keep=options.keep is not None)
        chosen = ("", "member forgets", "queue forgets", "ledger gives back") if options.quick else tuple(_DEATHS)
        faults = planted(root, chosen) if options.faults else {}
        figures["faults"] = faults
    finally:
        if options.keep is None:
            shutil.rmtree(root, ignore_errors=True)
    report(options, figures)
    return 1 if figures["violations"] or faults.pop("none", []) or not all(faults.values()) else 0


def run(root: Path, points: int, seed: int, *, keep: bool) -> dict[str, object]:
    """Tell stories until so many processes were killed."""
    draw = random.Random(seed)
    started, stories = time.monotonic(), 0
    found: list[tuple[str, str, str]] = []
    wrong: list[str] = []
    reached: set[tuple[str, str]] = set()
    requests = rounds = lost = 0
    schemes: Counter[str] = Counter()
    while len(found) < points:
        # A third of the stories under bfv; a window of each method under each scheme in turn.
        scheme = "bfv" if stories % 3 == 2 else "kahe"
        method = _METHODS[(stories // 3 + stories) % len(_METHODS)]
        field = found_field(
            root / f"s{stories}", scheme=scheme, method=method, branch_rounds=80, hidden_units=stories % 2
        )
        private = (Ask(client="silo-4", places=(6,)),) if stories % 2 else ()
        story = Story(
            field,
            draw,
            kills=points - len(found),
            asks=asks(draw),
            private=private,
            script=script(draw, scheme, reached),
        )
        said = tell(story)
        facts = Facts(field)
        wrong += [f"story {stories} ({scheme}, {method}): {one}" for one in said]
        reached |= {(kill.kind, kill.place) for kill in story.kills}
        found += [(kill.kind, where(kill, facts), outcome_of(kill, facts)) for kill in story.kills]
        schemes[scheme] += len(story.kills)
        requests += len(story.requests)
        rounds += len(facts.releases)
        charged = sum(row.status != "void" for row in facts.ledger)
        lost += charged - len(facts.releases)
        print(
            f"story {stories}: {scheme}, {method}, {len(story.kills)} kills, {len(said)} violations, "
            f"{time.monotonic() - started:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        if not keep and not said:
            shutil.rmtree(field.root)
        stories += 1
    print(table(found))
    print(f"\n{len(found)} kills in {stories} stories; {len(wrong)} violations")
    for one in wrong:
        print(one)
    return {
        "kills": len(found),
        "by process": dict(Counter(kind for kind, _, _ in found)),
        "by scheme": dict(schemes),
        "outcomes": dict(Counter(outcome for _, _, outcome in found)),
        "points": [
            {"process": kind, "where": place, "outcome": outcome, "times": times}
            for (kind, place, outcome), times in sorted(Counter(found).items())
        ],
        "stories": stories,
        "requests": requests,
        "rounds released": rounds,
        "rounds lost and charged": lost,
        "violations": wrong,
        "seconds": time.monotonic() - started,
    }


# Where a process dies that has a fault, so that what it forgot is missed.
_DEATHS = {
    "": Scripted(kind="server", place="vote comes in", side="after"),
    "member forgets": Scripted(kind="member", place="vote is recorded", side="after"),
    "client forgets": Scripted(kind="client", place="upload is signed", side="after"),
    "queue forgets": Scripted(kind="intake", place="request is taken", side="after"),
    "main line forgets": Scripted(kind="service", place="main line is written", side="after"),
    "node forgets": Scripted(kind="client", place="records are wiped", side="after"),
    "ledger gives back": Scripted(kind="server", place="vote comes in", side="after"),
}


def planted(root: Path, faults: tuple[str, ...]) -> dict[str, list[str]]:
    """By fault, which checks found it; the empty name is no fault, and found by none."""
    found = {}
    for number, fault in enumerate(faults):
        field = found_field(root / f"f{number}", sites=3)
        story = Story(
            field,
            random.Random(number),
            kills=0,
            rounds=(2, 2),
            asks=((Ask(client="silo-1", places=(0, 3)),),),
            fault=fault,
            script=[_DEATHS[fault]],
            most_lives=5,
        )
        said = tell(story)
        found[fault or "none"] = sorted({one.partition(":")[0] for one in said})
        print(f"fault {fault or 'none'!r}, {len(story.kills)} kills: {'; '.join(said[:3]) or 'nothing found'}"[:300])
    return found


def script(draw: random.Random, scheme: str, reached: set[tuple[str, str]]) -> list[Scripted]:
    """Places that nobody has died at yet, for the first lives of processes; beside what is drawn on the way."""
    chosen = []
    opener = "member" if scheme == "kahe" else "key-holder"
    for kind, times in (("service", 6), ("server", 2), ("client", 3), (opener, 2)):
        new = [one for one in places_of(kind, scheme) if (kind, f"{one[1]} {one[0]}") not in reached]
        chosen += [
            Scripted(kind=kind, place=name, side=side, count=draw.randint(1, most))
            for name, side, most in draw.sample(new, min(times, len(new)))
        ]
    return chosen


def asks(draw: random.Random) -> tuple[tuple[Ask, ...], ...]:
    """Requests of two windows; in some stories a client leaves as a whole."""
    one = (Ask(client="silo-1", places=(0, 3, 7)), Ask(client="silo-2", places=(draw.randrange(10),)))
    leaves = draw.random() < 0.3
    other = (Ask(client="silo-0", places=(2, 9)), Ask(client="silo-3", places=() if leaves else (4,)))
    return one, (*other, Ask(client="silo-1", places=(5,)))


def tell(story: Story) -> list[str]:
    """Run a story to its end and check it; what does not hold."""
    wrong: list[str] = []
    try:
        story.run()
    except Exception as error:
        wrong.append(f"the story did not end, {type(error).__name__}: {error}")
    wrong += [f"resumable: {one}" for one in story.failures]
    wrong += [f"resumable: {one}" for one in resumes(story.field)]
    return wrong + violations(story.field, story.requests, story.private)


def resumes(field: Field) -> list[str]:
    """Open the main line twice, with no node there; it has to be the same, and what the last certificate says."""
    said = []
    for number in range(2):
        out = field.root / f"looked-{number}.json"
        life = start("look", "server", lambda out=out: say(out, _standing(field)), field.root / "lives")
        _, status = os.waitpid(life.pid, 0)
        if status != 0:
            return [f"the main line cannot be opened in the end: {life.error or status}, see {life.log}"]
        said.append(json.loads(out.read_text()))
    wrong = [] if said[0] == said[1] else [f"opened twice, the main line is {said[0]} and {said[1]}"]
    if said[0]["certified"] != said[0]["model"]:
        wrong.append(f"the main line's model is {said[0]['model']}, the last certificate's {said[0]['certified']}")
    return wrong


def _standing(field: Field) -> dict[str, object]:
    with open_server(field) as server:
        last = sorted((field.server / "deletion" / "certificates").glob("*.json"))[-1]
        return {
            "model": server.state.model.digest.hex(),
            "rounds": server.state.rounds,
            "executed": [one.branch for one in server.executed],
            "certified": json.loads(last.read_bytes())["certificate"]["model"]["after"],
        }


if __name__ == "__main__":
    sys.exit(main())
