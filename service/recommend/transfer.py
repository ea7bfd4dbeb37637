# What a warm start says beside its verdict: whether the P of the earlier job transfers, or whether any P of its kind
# would have done. Read off the comparison with the control in findings.py: descriptive, and adjusted after Holm.
"""Whether a P transfers."""

from __future__ import annotations

from dataclasses import dataclass

from service.planning.arms import SHUFFLED_P
from service.planning.plan import JobPlan
from service.recommend.findings import Findings
from service.recommend.verdict import ALPHA


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """The P that a job started from, and whether it transfers.

    Attributes:
        job: The earlier job.
        sha256: Of the file of its P.
        transfer: Whether runs from that P end better than those from the same P in wrong coordinates; None if too few
            seeds completed with both.
        reason: The same in one sentence.
    """

    job: str
    sha256: str
    transfer: bool | None
    reason: str


def find_transfer(plan: JobPlan, findings: Findings) -> WarmStart | None:
    """Return what became of a warm start; None for a job without one.

    Transfer is claimed only if the two-sided p-value, adjusted after Holm with all comparisons of the job, is at most
    0.05. With eight seeds that takes all eight, and no further arms.

    Args:
        plan: The job's plan.
        findings: Hold the comparison of the challenger with the control.
    """
    warm = plan.spec.warm_start
    if warm is None:
        return None
    assert warm.sha256 is not None, "filled in when the job was submitted"
    item = next((item for item in findings.comparisons if item.against == SHUFFLED_P), None)
    if item is None:
        reason = "no word on transfer: too few seeds completed from P and from the same P in wrong coordinates"
        return WarmStart(job=warm.job, sha256=warm.sha256, transfer=None, reason=reason)
    transfer = item.improvement > 0 and item.p_holm <= ALPHA
    better = item.relative_improvement
    change = f"{abs(item.improvement):.3g}" if better is None else f"{abs(better):.1%}"
    reason = (
        f"{'transfer' if transfer else 'no transfer shown'}: from the P of {warm.job} the cost on the fresh seeds is "
        f"{change} {'lower' if item.improvement >= 0 else 'higher'} than from the same P in wrong coordinates, on "
        f"{item.pairs} paired seeds (p {item.p_holm:.3g} after Holm)"
    )
    return WarmStart(job=warm.job, sha256=warm.sha256, transfer=transfer, reason=reason)
