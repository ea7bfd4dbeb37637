# What a report says of a result, whatever the result is.
from __future__ import annotations

from typing import Any

import pytest

from service.api.pages.report import make_report
from service.db.models import Job
from service.result.job_result import Word
from tests.service.results import STATISTICS, TRIVIAL, a_result, an_arm

MAY_TELL = "but may be luck in the search; more trials for each arm, and more seeds, may tell"
NOTHING = "neither adamw nor warpadam is better on test than always predicting the most frequent class"


def report(**changes: Any) -> str:
    return make_report(Job(id="job-0", name="small", spec={}), a_result(**changes), [])


@pytest.mark.parametrize(
    ("reason", "more_pairs", "options"),
    [(MAY_TELL, None, "--trials 20 --seeds 8"), (MAY_TELL, 12, "--seeds 12"), (NOTHING, None, None)],
)
def test_more_evidence_is_asked_for_only_where_it_may_tell(
    reason: str, more_pairs: int | None, options: str | None
) -> None:
    statistics = STATISTICS.model_copy(update={"word": Word.INCONCLUSIVE, "more_pairs": more_pairs})
    page = report(verdict=Word.INCONCLUSIVE, arm="adamw", reason=reason, statistics=statistics)
    assert "It is not clear yet whether WarpAdam is better than AdamW here" in page
    assert ("warptune extend" in page) is (options is not None)
    if options:
        assert f"warptune extend job-0 {options} --watch" in page


def test_the_answer_has_the_score_that_people_know_and_how_slow_training_is() -> None:
    finalists = [
        an_arm("warpadam", mean_test_score=0.972, mean_seconds=3.9),
        an_arm("adamw", mean_test_score=0.951, mean_seconds=1.0),
    ]
    first = report(finalists=finalists, score="accuracy", metric="val_accuracy", trivial=TRIVIAL).partition("<h2>")[0]
    assert "Test accuracy: 97.2 % with WarpAdam, 95.1 % with AdamW." in first
    assert "always predicting the frequencies of the classes has accuracy 40.6 %" in first
    assert "Training: 3.9 s with WarpAdam, 1 s with AdamW: 3.9 times slower." in first


def test_figures_that_are_not_known_are_left_out() -> None:
    nothing = {"mean_test_loss": None, "mean_test_score": None, "mean_seconds": None, "runs": 0}
    finalists = [an_arm("warpadam", **nothing), an_arm("adamw", **nothing)]
    page = report(finalists=finalists, statistics=None, verdict=Word.INCONCLUSIVE, pairs=[], score="accuracy")
    first = page.partition("<h2>")[0]
    assert "None" not in page
    assert "<li>" not in first
    assert 'class="forest"' not in page
