"""The function ``tune``: from data in memory, or in a file, to a verdict and an optimizer."""

from __future__ import annotations

import difflib
import functools
import json
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypedDict, Unpack

from service.client import calls
from service.client.answers import Estimate
from service.client.quick_spec import STARTING, called, describe, describe_cost, describe_earlier, make_spec
from service.client.rest import ApiError, Client
from service.errors import FieldError, InvalidSpecError
from service.spec.job import MAX_SECONDS
from service.temporary import held_folder
from warptune.budget import fit
from warptune.connection import Connection
from warptune.data import as_upload, column_name, is_table
from warptune.progress import Clock, Progress, make_progress
from warptune.result import Result, follow
from warptune.training_loop import also_allowed, check_loop, importable, name_of, refuse_model, write_module

TRIALS: Final = 20
STEPS: Final = 400
"""Trials of each arm and steps of each run unless the caller says otherwise."""

MOST_MINUTES: Final = MAX_SECONDS / 60
"""Longest time for a job: that of one arm, which is a week."""

FIELDS: Final = {
    "target": "dataset.target",
    "y": "dataset.target",
    "columns": "dataset.columns",
    "split": "dataset.split",
    "metric": "objective.metric",
    "trials": "budget.trials_per_arm",
    "steps": "budget.steps",
}
"""Argument -> field of the spec that it sets."""


class SpecFields(TypedDict, total=False):
    """Other fields of a spec, as docs/jobs.md has them."""

    name: str
    dataset: Mapping[str, Any]
    family: Mapping[str, Any]
    warm_start: Mapping[str, Any]
    objective: Mapping[str, Any]
    search_space: Mapping[str, Any]
    arms: str
    baselines: list[str]
    controls: list[str]
    engine: Mapping[str, Any]
    search: Mapping[str, Any]
    training: Mapping[str, Any]
    budget: Mapping[str, Any]
    resources: Mapping[str, Any]
    confirm: Mapping[str, Any]


def tune(  # noqa: PLR0913 - every argument is optional and given by name
    data: object,
    y: object = None,
    *,
    target: Hashable | None = None,
    model: str | Mapping[str, Any] | Callable[..., Any] | None = None,
    minutes: float | None = None,
    trials: int | None = None,
    steps: int | None = None,
    metric: str | None = None,
    columns: Mapping[Hashable, str] | None = None,
    split: Mapping[str, Hashable] | None = None,
    seed: int = 0,
    url: str | None = None,
    quiet: bool = False,
    **fields: Unpack[SpecFields],
) -> Result:
    """Find out whether P helps on your data or in your training loop: tune WarpAdam and AdamW and compare them.

    An interrupt stops the job and returns a result with the trials so far, whose verdict is None. Its ``resume`` goes
    on with the job.

    Args:
        data: Path or URL of a file, a table of pandas, polars or pyarrow, an array with rows first (images as rows x
            height x width, channels first or last), or a torch ``Dataset`` with a length. The index of a pandas table
            is not used. Or a training loop of your own: a generator function that is called with ``make_optimizer`` and
            ``seed``, trains a model with the optimizer that ``make_optimizer(model)`` returns, and yields its
            validation loss now and then, or a dict such as ``{"loss": 0.3, "accuracy": 0.9}``.
        y: One target for each row of a table or an array: numbers or texts.
        target: Column of a table to predict, instead of ``y``: its name, or by what pandas finds it, such as ``2`` or
            ``("price", "mean")``. The same holds for the columns in ``columns`` and ``split``.
        model: Name of a model (``"mlp"``), its fields (``{"name": "mlp", "hidden": [64]}``), ``"module:factory"`` or
            the factory itself. Default: one that suits the data.
        minutes: About how long the job may take; chooses ``trials``, and fewer ``steps`` if it must and may. Those of
            a training loop stay.
        trials: Trials of each optimizer. Default: 20.
        steps: Training steps of each run. Default: 400, and with a training loop as many as it does.
        metric: What is judged, such as ``"val_roc_auc"``. Default: the validation loss.
        columns: What to take columns for, such as ``{"zip": "category", "name": "ignore"}``.
        split: How rows are divided, such as ``{"by": "group", "column": "patient"}``.
        seed: Seed of everything random.
        url: URL of a running service. Default: that of ``WARPTUNE_URL``, else a service that is started for this call
            and keeps its jobs in the folder ``warptune-data``.
        quiet: Whether to show nothing.
        **fields: Other fields of a spec: ``baselines=["adamw", "muon"]``, ``training={"schedule": "cosine"}``, ...

    Returns:
        The result.

    Raises:
        InvalidSpecError: An argument is wrong; the message names it.
        ApiError: The service refused something else, such as a file that cannot be read as a table.
        JobFailedError: The job failed.
        NotStartedError: The service of this call did not start.

    Cost: trains dozens of models; two to ten minutes for a small table with the defaults.
    """
    _refuse_unknown(fields)
    if is_table(data):
        target, columns, split = _named_columns(data, target, columns, split)
    given = {"target": target, "columns": columns, "split": split, "metric": metric, "trials": trials, "steps": steps}
    given = {name: _plain(name, value) for name, value in given.items()}
    spec: dict[str, Any] = {name: _plain(name, value) for name, value in {**fields, "seed": seed}.items()}
    _merge(spec, "dataset", columns=given["columns"], split=given["split"])
    _merge(spec, "objective", metric=given["metric"])
    _merge(spec, "budget", trials_per_arm=given["trials"], steps=given["steps"])
    if minutes is not None:
        minutes = _checked_minutes(minutes, spec["budget"])
    progress = make_progress(quiet=quiet)
    if callable(data):
        refuse_model(data)
        others = {"y": y, "target": target, "model": model, "columns": columns, "split": split}
        check_loop(data, others | {name: fields.get(name) for name in ("dataset", "family", "warm_start")})
        del spec["dataset"]
        with _named_as_given(given | {"data": name_of(data)}):
            return _tune_loop(data, spec, minutes, url, progress)
    settings = dict[str, str]()
    if model is not None:
        spec["model"], settings = _model(model)
    with tempfile.TemporaryDirectory(prefix="warptune-data-") as folder:
        file, target = as_upload(data, y, target, Path(folder))
        connection = Connection.to(url, settings)
        given["y"] = None if y is None else "given"
        progress.update(STARTING)
        with connection.open(worker=True) as client, _named_as_given(given):
            uploaded, _ = client.upload(file)
            if uploaded["layout"] == "table" and target is None:
                names = ", ".join(column["name"] for column in uploaded["columns"])
                raise InvalidSpecError(FieldError("target", None, f"must name the column to predict, one of: {names}"))
            name = str(spec.pop("name", file if isinstance(file, str) else calls.name_of(file)))
            dataset = {**spec.pop("dataset"), "target": target}
            spec = make_spec(uploaded, name.rpartition("/")[2], dataset, **spec)
            plan = _plan(client, spec, minutes)
            return _run(client, spec, plan, describe(called(uploaded, file), plan), progress, connection)


def _named_columns(
    table: object,
    target: Hashable | None,
    columns: Mapping[Hashable, str] | None,
    split: Mapping[str, Hashable] | None,
) -> tuple[Hashable | None, Mapping[Hashable, str] | None, Mapping[str, Hashable] | None]:
    """Return the arguments with the names that the columns of a table have in its file. What names none stays."""

    def named(key: Hashable) -> Hashable:
        found = column_name(table, key)
        return key if found is None else found

    if isinstance(columns, Mapping):
        columns = {named(key): kind for key, kind in columns.items()}
    if isinstance(split, Mapping) and "column" in split:
        split = {**split, "column": named(split["column"])}
    return None if target is None else named(target), columns, split


def _tune_loop(
    loop: Callable[..., Any], spec: dict[str, Any], minutes: float | None, url: str | None, progress: Progress
) -> Result:
    """Tune a training loop; the arguments are those of :func:`tune`."""
    name = name_of(loop)
    with held_folder() as folder:
        connection, settings = Connection.to(url), dict[str, str]()
        if connection.url is None:
            entrypoint, settings = write_module(loop, folder)
        else:
            entrypoint = importable("data", loop, "A service of yours takes no function, but imports it")
        spec = {"name": name, **spec, "model": {"name": "loop", "entrypoint": entrypoint}}
        progress.update("starting: runs the training loop once and times a few steps")
        with Connection.to(url, settings).open(worker=True) as client:
            plan = _plan(client, spec, minutes)
            described = [f"{name}  {plan['task']}", *describe_cost(plan)]
            return _run(client, spec, plan, described, progress, connection)


def _plan(client: Client, spec: dict[str, Any], minutes: float | None) -> Estimate:
    """Complete the budget of a spec and return the estimate. A training loop has its own steps."""
    is_loop = spec["model"].get("name") == "loop"
    keep_steps = is_loop or "steps" in spec["budget"]
    budget = {"trials_per_arm": TRIALS, **({} if is_loop else {"steps": STEPS}), **spec["budget"]}
    if minutes is not None:
        budget.setdefault("max_seconds", 60 * minutes)
    spec["budget"] = budget
    plan = client.estimate(spec)
    budget["steps"] = plan["steps"]  # so that a loop need not be run to its end again
    if minutes is None:
        return plan
    slots = spec.get("resources", {}).get("slots", 1)
    size = fit(plan, plan["steps"], minutes, slots, keep_steps=keep_steps)
    budget.update(trials_per_arm=size.trials, steps=size.steps)
    return client.estimate(spec)


def _run(
    client: Client,
    spec: dict[str, Any],
    plan: Estimate,
    described: Iterable[str],
    progress: Progress,
    connection: Connection,
) -> Result:
    """Queue a job that was described in a few lines, follow it to its end, and return its result."""
    for line in (*described, *describe_earlier(client, spec, is_private=connection.url is None)):
        progress.say(line)
    clock = Clock(plan)
    return follow(client, client.submit(spec), clock, progress, connection)


def _checked_minutes(minutes: object, budget: Mapping[str, object]) -> float:
    if hasattr(minutes, "tolist"):  # a number of numpy
        minutes = minutes.tolist()
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes <= MOST_MINUTES:
        wrong = f"must be a number above 0, at most {MOST_MINUTES:.0f}"
        raise InvalidSpecError(FieldError("minutes", minutes, wrong, code="out_of_range"))
    if "trials_per_arm" in budget:
        raise InvalidSpecError(FieldError("minutes", minutes, "must be left out if trials is given", code="conflict"))
    return minutes


def _plain(argument: str, value: object) -> Any:
    """Return the value of an argument as JSON has it; numbers of numpy are numbers.

    Raises:
        InvalidSpecError: JSON has no such value.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False, default=_number))
    except (TypeError, ValueError) as error:
        wrong = f"must consist of finite numbers, texts, lists and dicts: {error}"
        raise InvalidSpecError(FieldError(argument, value, wrong)) from error


def _number(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if not hasattr(value, "tolist"):
        raise TypeError(f"{type(value).__name__} is none of these")
    return value.tolist()  # of numpy or torch


def _refuse_unknown(fields: Mapping[str, object]) -> None:
    for name in fields:
        if name not in SpecFields.__annotations__:
            known = [*(tune.__kwdefaults__ or {}), *SpecFields.__annotations__]
            close = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean {close[0]!r}?" if close else f"The arguments are {', '.join(known)}."
            raise TypeError(f"tune() has no argument {name!r}. {hint}")


def _merge(spec: dict[str, Any], part: str, **values: object) -> None:
    """Add the arguments that have a value to a part of the spec.

    Raises:
        InvalidSpecError: A field is given twice.
    """
    given = {name: value for name, value in values.items() if value is not None}
    whole = spec.get(part) or {}
    if not isinstance(whole, Mapping):
        raise InvalidSpecError(FieldError(part, whole, "must be a dict of fields"))
    for name in given.keys() & whole.keys():
        argument = next(argument for argument, field in FIELDS.items() if field == f"{part}.{name}")
        wrong = f"must be left out if {part} has {name}"
        raise InvalidSpecError(FieldError(argument, given[name], wrong, code="conflict"))
    spec[part] = {**whole, **given}


def _model(model: str | Mapping[str, Any] | Callable[..., Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the model of a spec, and the settings that let a service of our own import it."""
    if isinstance(model, functools.partial) and not model.args:
        model = {"entrypoint": model.func, "config": model.keywords}
    why = "The service imports it in processes of its own"
    if callable(model):
        model = importable("model", model, why)
    if isinstance(model, Mapping) and callable(model.get("entrypoint")):
        model = {**model, "entrypoint": importable("model", model["entrypoint"], why)}
    if isinstance(model, str):
        model = {"entrypoint": model} if ":" in model else {"name": model}
    if not isinstance(model, Mapping):
        wrong = "must be a name, a dict or a function"
        raise InvalidSpecError(FieldError("model", model, wrong))
    if not isinstance(model.get("entrypoint"), str):
        return _plain("model", dict(model)), {}
    settings = {"WARPTUNE_ALLOWED_MODULES": also_allowed(model["entrypoint"].partition(":")[0])}
    return _plain("model", dict(model)), settings


@contextmanager
def _named_as_given(given: Mapping[str, object]) -> Iterator[None]:
    """Turn a refusal of the service into one that names the arguments of the caller."""
    try:
        yield
    except ApiError as error:
        if not error.errors:
            raise
        raise InvalidSpecError(*(_renamed(wrong, given) for wrong in error.errors)) from error


def _renamed(wrong: FieldError, given: Mapping[str, object]) -> FieldError:
    if wrong.field == "model.entrypoint" and "data" in given:
        return FieldError("data", given["data"], wrong.message, None, wrong.code)
    for argument, field in FIELDS.items():
        if given.get(argument) is not None and (wrong.field == field or wrong.field.startswith(f"{field}.")):
            name = argument + wrong.field.removeprefix(field)
            return FieldError(name, wrong.value, wrong.message, wrong.hint, wrong.code)
    return wrong
