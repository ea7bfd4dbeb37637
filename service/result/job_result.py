"""Everything a job ends with, as one type.

The worker writes a :class:`JobResult`, the ledger stores its JSON, and the API, the exports, the report and the command
line read it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from pydantic import JsonValue, TypeAdapter, ValidationError

from service.errors import OtherVersionError
from service.result.findings import Findings
from service.result.verdict import Verdict, Word
from service.stored import wrong_fields


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """The best config of an arm, and how it did on the fresh seeds.

    Attributes:
        arm: Name of the arm.
        trial: Number of its trial.
        config: Hyper-parameters of the optimizer.
        value: The cost that the search minimised. The trial was picked for it, so it is optimistic.
        mean_test_loss: Mean over its completed confirmation runs; None if none completed.
        mean_seconds: Mean training time of those runs.
        runs: Confirmation runs that completed.
        planned: Confirmation runs that were planned.
    """

    arm: str
    trial: int
    config: dict[str, JsonValue]
    value: float
    mean_test_loss: float | None
    mean_seconds: float | None
    runs: int
    planned: int


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What both arms cost on one seed; None where the run did not complete.

    Attributes:
        seed: The seed.
        baseline: Cost of the baseline: the test loss, or what the objective asks for instead.
        warpadam: Cost of the challenger.
        baseline_test_loss: Test loss of the baseline, whatever the objective.
        warpadam_test_loss: Test loss of the challenger.
        missed: Arms that did not reach the target. They count as the longest run, which favours them.
    """

    seed: int
    baseline: float | None
    warpadam: float | None
    baseline_test_loss: float | None
    warpadam_test_loss: float | None
    missed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LearnedP:
    """The P that the recommended config learned, and how a run that starts from it ends.

    Attributes:
        file: Name of the artifact.
        sha256: Its hash.
        seed: Seed of the run that learned P, and of the run that started from it.
        test_loss: Test loss of the run that started from it. It does not affect the verdict.
        data_sha256: With a family: hash of the split of the one task that this run trained on.
    """

    file: str
    sha256: str
    seed: int
    test_loss: float | None
    data_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class WarmStartOutcome:
    """The P that a job started from, and whether it transfers.

    Attributes:
        job: The earlier job.
        sha256: Hash of the file of its P.
        transfer: Whether runs from that P end better than runs from the same P in wrong coordinates; None if too few
            seeds completed with both.
        reason: The same in one sentence.
    """

    job: str
    sha256: str
    transfer: bool | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What to use, and why.

    Attributes:
        verdict: Whether P helps on this task.
        reason: The verdict in one sentence.
        arm: The recommended arm: one that learns P only if it helps, otherwise the best baseline.
        trial: Number of the recommended trial.
        config: Hyper-parameters of the recommended optimizer.
        challenger: The arm that learns P; if there are several, the best one by validation.
        baseline: The baseline it was compared with: the best one by validation.
        statistics: The comparison; None if too few pairs completed.
        pairs: The losses that were compared, one pair for each seed.
        finalists: The best config of every arm.
    """

    verdict: Word
    reason: str
    arm: str
    trial: int
    config: dict[str, JsonValue]
    challenger: str
    baseline: str
    statistics: Verdict | None
    pairs: list[Pair]
    finalists: list[ArmResult]


@dataclass(frozen=True, kw_only=True)
class JobResult(Recommendation):
    """A recommendation with everything else that the job found.

    Attributes:
        findings: Other arms and metrics, and how the search went.
        learned_p: The learned P; None if the recommended optimizer has none that was kept.
        warm_start: Whether the P that the job started from transfers; None for a job without a warm start.
        made_with: Versions of the worker that wrote the result.
    """

    findings: Findings
    learned_p: LearnedP | None
    warm_start: WarmStartOutcome | None
    made_with: dict[str, str]

    def to_json(self) -> dict[str, JsonValue]:
        """Return the result as plain JSON values."""
        plain: dict[str, JsonValue] = _adapter().dump_python(self, mode="json")
        return plain

    @classmethod
    def from_json(cls, stored: object) -> JobResult:
        """Return a result from its JSON. Fields that this version does not know are left out.

        Raises:
            OtherVersionError: Another version of the service stored something that this one cannot read.
        """
        try:
            return _adapter().validate_python(stored)
        except ValidationError as error:
            raise OtherVersionError("the job's recommendation", wrong_fields(error)) from error


@cache
def _adapter() -> TypeAdapter[JobResult]:
    return TypeAdapter(JobResult)
