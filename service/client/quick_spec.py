"""From an uploaded dataset to a job: a spec with the usual model, and a few lines that say what the job uses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from service.client.answers import Dataset, Estimate

MODELS: Final[Mapping[str, dict[str, Any]]] = {
    "language": {"name": "transformer"},
    "autoencoding": {"name": "autoencoder", "hidden": [64], "code": 8},
    "images": {"name": "convnet"},
    "rows": {"name": "mlp", "hidden": [64, 64]},
}
"""What is trained on a dataset unless a spec says otherwise."""

WARNING: Final = "  ! "
"""Beginning of a line about something that may have to be corrected."""


def make_spec(uploaded: Dataset, name: str, dataset: Mapping[str, object], **fields: object) -> dict[str, Any]:
    """Return the spec of a job on an uploaded dataset.

    Args:
        uploaded: The dataset.
        name: Name of the job, such as that of the file.
        dataset: Fields of ``dataset`` besides the id; those without a value are left out.
        fields: Other fields of the spec. Without ``model``, the usual one for such data is taken.
    """
    return {
        "name": re.sub(r"[\x00-\x1f\x7f-\x9f]", "", name)[-100:] or "untitled",
        "dataset": {"id": uploaded["id"], **{field: value for field, value in dataset.items() if value}},
        "model": usual_model(uploaded),
        **fields,
    }


def usual_model(uploaded: Dataset) -> dict[str, Any]:
    """Return the model that is trained on a dataset unless a spec says otherwise."""
    if uploaded["layout"] == "text":
        return MODELS["language"]
    if uploaded["layout"] == "arrays" and not uploaded["columns"]:
        return MODELS["autoencoding"]
    return MODELS["images"] if len(uploaded["shape"]) == 3 else MODELS["rows"]


def describe(uploaded: Dataset, plan: Estimate) -> Iterator[str]:
    """Yield lines that say what a job uses and costs; what may have to be corrected begins with ``WARNING``."""
    columns = plan["columns"]
    inputs = sum(column["role"] == "feature" for column in columns)
    rows = f"{uploaded['rows']:,} {'characters' if uploaded['layout'] == 'text' else 'rows'}"
    yield f"{uploaded['name']}  {rows}{f', {inputs} inputs' if inputs else ''}, {plan['task']}"
    for column in columns:
        left_out = [f"left out, {column['reason']}"] if column["role"] == "left out" else column["warnings"]
        yield from (f"{WARNING}{column['name']}: {note}" for note in left_out)
    yield from (f"{WARNING}{note}" for note in uploaded["warnings"])
    yield f"{plan['trials']} trials and {plan['confirm_runs']} more runs, about {plan['seconds']:.0f} s"
