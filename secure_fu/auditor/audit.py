"""A whole audit: membership, deletion, protocol and what each party sees, as `audit.json` and `scores.npz` carry them.

Verdicts are on the procedure: shadow models, shadow runs and a canary run are made anew from the configuration. Of a
run directory the released model is attacked as well, and its transcript is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_fu.audit import MembershipAudit, Outcome, Verdict, read_scores, scores_audit, worst
from secure_fu.auditor.canary.runs import check_canaries
from secure_fu.auditor.canary.views import PartyView
from secure_fu.auditor.deletion_part import audit_deletions, deletion_not_seen, deletion_verdicts
from secure_fu.auditor.membership_part import (
    audit_membership,
    membership_figures,
    membership_scores,
)
from secure_fu.auditor.outcome import AuditOptions, AuditOutcome, AuditPart
from secure_fu.auditor.protocol_part import audit_canaries, protocol_not_seen
from secure_fu.auditor.released import released_vector
from secure_fu.auditor.run_source import read_run
from secure_fu.auditor.transcript_views import read_transcript, transcript_views
from secure_fu.config import SimulationConfig
from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel
from secure_fu.privacy import Unit
from secure_fu.report.audit import AUDIT_SCHEMA
from secure_fu.results import software_versions
from secure_fu.scenario import build_scenario
from secure_fu.simulation import Progress, plan_of

__all__ = ["audit_config", "audit_run", "audit_scores"]

_MEMBERSHIP_ASSUMPTIONS = (
    "Members and non-members are independent draws of one distribution; a two-sample test looked for the contrary.",
    "The shadow models were trained as the target was, on random halves of the same pool.",
)
_DELETION_ASSUMPTIONS = (
    "Shadow runs train, delete and retrain as the federation does, with the real methods on a float replica of the "
    "sums: the noise of all clients' shares, without encryption. Their records carry no backdoor trigger.",
    "Margins and power were stated before any method's models were looked at; intervals are over runs.",
)
_PROTOCOL_ASSUMPTIONS = (
    "The coins of the canaries and their directions were the auditor's secret until all sums were released.",
    "The code that was audited is the code that clients run: a client that lies about itself is not found.",
)


def audit_config(
    config: SimulationConfig, *, data_dir: Path | None, options: AuditOptions, progress: Progress
) -> AuditOutcome:
    """Audit what a configuration describes.

    Args:
        data_dir: takes the place of `data.path`.

    Raises:
        ConfigError, DataError, BudgetExceededError, UnattainableEpsilonError: as a simulation does.
        ArgumentError: a number does not fit, such as fewer runs than an interval takes; says what would.
    """
    source = {"kind": "config", "name": config.name, "config": config.to_dict(), "quick": options.quick}
    return _Audit(config, data_dir, options, progress, source).outcome()


def audit_run(run_dir: Path, *, data_dir: Path | None, options: AuditOptions, progress: Progress) -> AuditOutcome:
    """Audit a finished run: its procedure, the model that it released, and its transcript.

    Raises:
        as :func:`audit_config`, and RunDirectoryError, TranscriptError, LedgerError: the directory is incomplete,
            damaged or of another version.
    """
    run = read_run(run_dir)
    source = {
        "kind": "run",
        "name": run_dir.name or run.config.name,
        "config": run.config.to_dict(),
        "quick": options.quick,
    }
    return _Audit(run.config, data_dir, options, progress, source, run=run.path).outcome()


def audit_scores(path: Path, *, options: AuditOptions, progress: Progress) -> AuditOutcome:
    """Judge an attack's scores from elsewhere.

    Raises:
        DataError: as :func:`~secure_fu.audit.read_scores`.
    """
    started = time.perf_counter()
    progress.phase("scores", 1)
    scores = read_scores(path)
    audit = scores_audit(scores.member_scores, scores.non_member_scores)
    progress.advance()
    report = _Report({"kind": "scores", "name": path.name, "config": None})
    report.add_membership(audit)
    report.timing["membership"] = time.perf_counter() - started
    return report.outcome()


class _Report:
    """What was found, as it comes."""

    def __init__(self, source: dict[str, Any]) -> None:
        self.created = datetime.now(UTC)
        self.source = source
        self.insecure: list[str] = []
        self.parts: dict[str, Any] = {"membership": None, "deletion": None, "protocol": None}
        self.views: list[PartyView] = []
        self.verdicts: list[Verdict] = []
        self.sentences: list[tuple[Outcome, str]] = []
        self.assumptions: list[str] = []
        self.not_seen: list[str] = []
        self.scores: dict[str, NDArray[Any]] = {}
        self.timing: dict[str, float] = {}

    def conclude(self, verdict: Verdict, question: str) -> None:
        """Count a verdict towards the whole audit's, under the question that it answers."""
        self.verdicts.append(verdict)
        self.sentences.append((verdict.outcome, f"{question}: {verdict.sentence}"))

    def add_membership(self, audit: MembershipAudit) -> None:
        """The membership part."""
        self.parts["membership"] = membership_figures(audit)
        self.scores |= membership_scores(audit)
        self.conclude(audit.verdict, "Membership")
        self.assumptions += _MEMBERSHIP_ASSUMPTIONS if audit.shadows else ()
        detectable = audit.verdict.figures.get("detectable_auc")
        if detectable is not None:
            self.not_seen.append(
                f"Membership attacks: an area under the ROC curve below {detectable:.2f} would probably have gone "
                "unseen, and so would any attack that is stronger than those that were run."
            )

    def outcome(self) -> AuditOutcome:
        """The finished audit."""
        self.timing["total"] = sum(self.timing.values())
        outcome = worst(self.verdicts)
        # What the whole is judged by comes first.
        sentences = [sentence for own, sentence in self.sentences if own is outcome]
        sentences += [sentence for own, sentence in self.sentences if own is not outcome]
        result = {
            "schema": AUDIT_SCHEMA,
            "software": software_versions(),
            "created": self.created.isoformat(timespec="seconds"),
            "complete": True,
            "source": self.source,
            "insecure": self.insecure,
            "verdict": {"outcome": outcome.value, "sentences": sentences},
            **self.parts,
            "views": [view.to_json() for view in self.views],
            "assumptions": self.assumptions,
            "not_seen": self.not_seen,
            "timing": self.timing,
        }
        return AuditOutcome(result=result, scores=self.scores)


class _Audit:
    """One audit of a configuration, and of a run of it where there is one."""

    def __init__(
        self,
        config: SimulationConfig,
        data_dir: Path | None,
        options: AuditOptions,
        progress: Progress,
        source: dict[str, Any],
        *,
        run: Path | None = None,
    ) -> None:
        self.config, self.data_dir, self.options, self.progress, self.run = config, data_dir, options, progress, run
        self.report = _Report(source)
        if config.protocol.scheme == "plain":
            self.report.insecure.append("protocol.scheme is plain: uploads are not encrypted")
        self.scenario = build_scenario(config, data_dir=data_dir)
        self.plan = plan_of(config, self.scenario)
        self.model = FlatModel(self.scenario.module)
        # What does not fit the model is found out before hours of work.
        if options.canaries is not None and not options.parts.isdisjoint({AuditPart.PROTOCOL, AuditPart.VIEWS}):
            check_canaries(options.canaries, self.model.dimension)
        self.target = None if run is None else released_vector(run, "original", self.model)

    def outcome(self) -> AuditOutcome:
        """Run the parts that are asked for."""
        asked = self.options.parts
        for part, work in (
            (AuditPart.MEMBERSHIP, self._membership),
            (AuditPart.DELETION, self._deletion),
        ):
            if part in asked:
                with self._timed(part.value):
                    work()
        if not asked.isdisjoint({AuditPart.PROTOCOL, AuditPart.VIEWS}):
            with self._timed("protocol"):
                self._protocol()
        return self.report.outcome()

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.report.timing[part] = time.perf_counter() - started

    def _counted(self, title: str, steps: int) -> Callable[[int, int], None]:
        """A progress callback that is told how much is done."""
        self.progress.phase(title, steps)
        told = 0

        def tell(done: int, _: int) -> None:
            nonlocal told
            for _ in range(done - told):
                self.progress.advance()
            told = max(told, done)

        return tell

    def _membership(self) -> None:
        report, options = self.report, self.options
        unit = self.plan.recipe.unit
        if unit is not Unit.RECORD:
            report.not_seen.append(
                f"Membership of single records: the privacy unit is the {unit.value}, and shadow models are trained "
                "for the record unit only. The deletion part attacks whole units."
            )
            if options.parts == {AuditPart.MEMBERSHIP}:
                raise ArgumentError(
                    "parts",
                    "membership",
                    f"others as well: the unit is the {unit.value}, and membership is for records",
                )
            return
        shadows = options.shadows if options.shadows is not None else 16 if options.quick else 64
        seed = self.config.seed
        clean = replace(self.config, deletion=replace(self.config.deletion, backdoor=False))
        report.add_membership(
            audit_membership(
                build_scenario(clean, data_dir=self.data_dir),
                self.plan,
                self.target,
                shadows=shadows,
                seed=seed,
                progress=self._counted("shadow models", shadows),
            )
        )

    def _deletion(self) -> None:
        report, options = self.report, self.options
        runs = options.runs if options.runs is not None else 12 if options.quick else 48
        figures, scores, audit, methods = audit_deletions(
            self.config,
            data_dir=self.data_dir,
            runs=runs,
            targets=options.targets,
            processes=options.processes,
            quick=options.quick,
            counted=self._counted,
        )
        report.parts["deletion"] = figures
        report.scores |= scores
        for verdict in deletion_verdicts(audit, methods):
            report.conclude(verdict, "Deletion")
        report.assumptions += _DELETION_ASSUMPTIONS
        report.not_seen += deletion_not_seen(audit)

    def _protocol(self) -> None:
        report, options = self.report, self.options
        self.progress.phase("canary run", 1)
        protocol, views, scores = audit_canaries(
            self.config, self.scenario, self.plan, canaries=options.canaries, quick=options.quick
        )
        self.progress.advance()
        if AuditPart.PROTOCOL in options.parts:
            report.parts["protocol"] = protocol.to_json()
            report.scores |= scores
            report.conclude(protocol.verdict, "Protocol")
            report.not_seen += protocol_not_seen(protocol)
        if AuditPart.VIEWS in options.parts:
            report.views += views
            if self.run is not None:
                seen = transcript_views(read_transcript(self.run))
                report.views += [replace(view, party=f"in this run's transcript: {view.party}") for view in seen]
            # A party that finds next to nothing is no reason to doubt: of views, only what is wrong counts.
            wrong = [view for view in report.views if view.verdict.outcome in (Outcome.LEAK, Outcome.INVALID)]
            report.verdicts += [view.verdict for view in wrong]
            if not report.verdicts:
                report.verdicts += [view.verdict for view in report.views]
            named = views if AuditPart.PROTOCOL not in options.parts else wrong
            report.sentences += [
                (view.verdict.outcome, f"What {view.party} sees: {view.verdict.sentence}") for view in named
            ]
        report.assumptions += _PROTOCOL_ASSUMPTIONS
        if not np.isfinite(protocol.claim.epsilon):
            report.insecure.append("the ledger's claim is infinite: no noise is accounted for")
