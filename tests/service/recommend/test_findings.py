from __future__ import annotations

import pytest

from service.planning.objective import Objective
from service.planning.plan import make_plan
from service.recommend.findings import make_findings
from service.recommend.recommendation import NOUNS, Finalist, recommend
from service.spec.job import JobSpec
from tests.service.recommend.test_recommendation import runs, trial


@pytest.mark.parametrize("metric", NOUNS)
def test_another_arm_is_compared_under_the_name_of_what_was_measured(metric: str) -> None:
    body = {"dataset": {"name": "wine"}, "model": {"name": "mlp"}, "baselines": ["adamw", "sgd"]}
    plan = make_plan(JobSpec.model_validate(body))
    arms = ("warpadam", "adamw", "sgd")
    finalists = [Finalist(trial(plan, number, 0.4 + number / 10, arm), 0.4) for number, arm in enumerate(arms)]
    found = [run for number, arm in enumerate(arms) for run in runs(arm, [0.5 + number / 10] * 8, number)]
    target = 0.9 if metric.endswith("target") else None
    objective = Objective(metric=metric, target=target, steps=10, max_seconds=60.0)
    findings = make_findings(plan, recommend(plan, finalists, found, objective), finalists, [], found, objective)
    (against,) = (row for row in findings.comparisons if row.arm == "sgd")
    wanted = {"val_loss": "test_loss", "val_accuracy": "test_error_or_unexplained_variance"}
    wanted["val_r2"] = wanted["val_closeness"] = wanted["val_accuracy"]
    assert against.metric == wanted.get(metric, metric)
