"""Own model, own data, persons as the privacy unit: a patient asks to be forgotten.

Four clinics hold short recordings of their patients, several a patient. The unit of privacy is the patient, all of
whose records are hidden and forgotten together.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from secure_fu import (
    DeletionRequest,
    Federation,
    Records,
    Rollback,
    Scrub,
    Unit,
    UnlearningMethod,
    make_plan,
    membership_audit,
)
from secure_fu.learning import module_accuracy

CLINICS, PATIENTS, RECORDINGS, SAMPLES = 4, 100, 6, 32


class Recogniser(nn.Module):
    """Tells slow from fast oscillations; any module from features to logits would do that keeps records apart."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv1d(1, 4, kernel_size=5, padding=2)
        self.head = nn.Linear(4, 2)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """Signals of shape (n, 1, SAMPLES) to logits of shape (n, 2)."""
        return self.head(torch.relu(self.filters(signal)).mean(dim=2))


def recordings(clinic: str, patients: int, random: np.random.Generator) -> Records:
    """Signals, their labels, and whose they are: one name a record."""
    names = np.repeat([f"{clinic}/patient-{number:03d}" for number in range(patients)], RECORDINGS)
    labels = random.integers(0, 2, size=len(names))
    phase = random.uniform(0.0, 2.0 * np.pi, size=(len(names), 1))
    cycles = np.where(labels == 0, 2.0, 6.0)[:, None]
    clean = np.sin(2.0 * np.pi * cycles * np.arange(SAMPLES) / SAMPLES + phase)
    signals = clean + random.normal(0.0, 1.0, size=clean.shape)
    return Records.from_arrays(signals[:, None, :], labels, groups=list(names))


def main() -> None:
    random = np.random.default_rng(0)
    clients = {f"clinic-{n}": recordings(f"clinic-{n}", PATIENTS, random) for n in range(CLINICS)}
    held_out = recordings("nobody", 50, random)
    torch.manual_seed(0)
    model = Recogniser()
    plan = make_plan(
        model,
        clients=CLINICS,
        nominal_units=CLINICS * PATIENTS,
        minimum_cohort=CLINICS,
        unit=Unit.GROUP,
        epsilon=8.0,
        rounds=30,
        learning_rate=0.5,
    )
    request = DeletionRequest.person("clinic-2/patient-007")
    patient = clients["clinic-2"].subset(request.identify("clinic-2", clients["clinic-2"]))
    methods: tuple[UnlearningMethod, ...] = (Rollback(forget_epsilon=4.0), Scrub(length=5))

    with Federation(model, clients, plan=plan, methods=methods) as federation:
        original = federation.train()
        print(f"original: accuracy {module_accuracy(federation.module_of(original), held_out):.2f}")
        for method in methods:
            after = federation.unlearn(request, method, adaptive=False)
            module = federation.module_of(after.state)
            audit = membership_audit(module, members=patient, non_members=held_out)
            print(f"\n{after.method}: accuracy {module_accuracy(module, held_out):.2f}")
            print(after.guarantee.describe())
            print(
                f"Membership attack on the {len(patient)} recordings: "
                f"AUC {audit.auc.value:.2f}, 95 % interval {audit.auc.low:.2f} to {audit.auc.high:.2f}"
            )
            for entry in after.epsilon:
                print(f"epsilon of a {entry.subject.value} patient, {entry.phase.value}: {entry.value:.2f}")


if __name__ == "__main__":
    main()
