"""Whether the P of a warm start transfers, or whether any P of its kind would have done.

Read from the comparison with the control: descriptive, and Holm-adjusted with all comparisons of the job.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.planning.arms import SHUFFLED_P
from service.planning.plan import JobPlan
from service.recommend.verdict import ALPHA
from service.result.job_result import Comparison, WarmStartOutcome


def find_transfer(plan: JobPlan, comparisons: Sequence[Comparison]) -> WarmStartOutcome | None:
    """Return whether the P of a warm start transfers; None for a job without one.

    Transfer is claimed only if the two-sided p-value, Holm-adjusted with all comparisons of the job, is at most 0.05.
    With eight seeds, P must win on all eight, and the job may have no further arms.

    Args:
        plan: The job's plan.
        comparisons: Include the one of the challenger with the control.
    """
    warm = plan.spec.warm_start
    if warm is None:
        return None
    assert warm.sha256 is not None, "filled in when the job was submitted"
    item = next((item for item in comparisons if item.against == SHUFFLED_P), None)
    if item is None:
        reason = "transfer is unknown: too few seeds completed from P and from the same P in wrong coordinates"
        return WarmStartOutcome(job=warm.job, sha256=warm.sha256, transfer=None, reason=reason)
    transfer = item.improvement > 0 and item.p_holm <= ALPHA
    better = item.relative_improvement
    change = f"{abs(item.improvement):.3g}" if better is None else f"{abs(better):.1%}"
    reason = (
        f"{'transfer' if transfer else 'no transfer shown'}: from the P of {warm.job} the cost on the fresh seeds is "
        f"{change} {'lower' if item.improvement >= 0 else 'higher'} than from the same P in wrong coordinates, on "
        f"{item.pairs} paired seeds (p {item.p_holm:.3g} after Holm)"
    )
    return WarmStartOutcome(job=warm.job, sha256=warm.sha256, transfer=transfer, reason=reason)
