"""What the store knows of runs, in records of the package's own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlanRecord:
    """The run that stands for a plan."""

    run_id: str
    experiment_id: str
    name: str
    status: str  # MLflow's: RUNNING, FINISHED, FAILED or KILLED
    last_run: int  # milliseconds since 1970
    looks: tuple[int, ...] = ()  # the numbers of seeds at which conclusions have been drawn
    variant: str = ""  # the options that change what the file says, if any

    @property
    def rank(self) -> tuple[bool, int]:
        """What is shown first is largest: the file as it stands, and of several the last run."""
        return not self.variant, self.last_run


@dataclass(frozen=True)
class OtherPlan:
    """A plan of the same experiment as the one that is shown."""

    run_id: str
    last_run: float  # seconds since 1970
    status: str
    differences: list[str] | None  # from the one that is shown; None if its file is gone


@dataclass(frozen=True)
class FinishedRun:
    """What results need of a finished seed run, apart from its history."""

    run_id: str
    status: str  # how training ended: a RunStatus
    commit: str | None
    environment: dict[str, str]  # provenance.environment()
    seed: int
    plan: str  # the key of the plan that trained it


@dataclass(frozen=True)
class UnusableRun:
    """A finished seed run that does not count."""

    run_id: str
    name: str
    reason: str  # in words

    def __str__(self) -> str:
        return f"run {self.run_id} ({self.name}): {self.reason}"


@dataclass(frozen=True)
class SeedRun:
    """What identifies a finished seed run. `params` hold its recipe, trainer and data, as text."""

    run_id: str
    arm: str
    seed: int
    key: str
    params: dict[str, str]
    commit: str | None
    environment: dict[str, str]  # provenance.environment() at that time

    @property
    def name(self) -> str:
        """The run for people."""
        return f"{self.arm} seed {self.seed}"
