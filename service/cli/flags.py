"""Says in options of ``tune`` and ``init`` what the service says in fields of a spec or in parameters of an upload."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from service.cli.reading import OPTIONS
from service.errors import FieldError

FLAGS: Final = {
    "dataset.target": "--target",
    "objective.metric": "--metric",
    "budget.trials_per_arm": "--trials",
    "budget.steps": "--steps",
    "budget.max_seconds": "--max-seconds",
    "seed": "--seed",
    "filename": "the name of the file",
    **{name: f"--{name.removesuffix('s') if name == 'na_values' else name}".replace("_", "-") for name in OPTIONS},
}
"""Field or parameter -> option."""


NAMED: Final = re.compile(r"""column ('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*") """)
"""The start of a note that names a column, as ``repr`` writes it."""


def flag_of(field: str) -> str | None:
    """Return the option that sets a field; None if there is none.

    >>> flag_of("dataset.columns.zip code"), flag_of("dataset.split.column"), flag_of("na_values[0]"), flag_of("model")
    ("--column 'zip code'", '--split', '--na-value', None)
    """
    if field.startswith("dataset.columns."):
        return f"--column {shlex.quote(field.removeprefix('dataset.columns.'))}"
    return "--split" if field.startswith("dataset.split") else FLAGS.get(re.sub(r"\[\d+\]$", "", field))


def in_flags(note: str, column: str) -> str:
    """Return a note about a column, or about a file, with options in place of fields.

    >>> in_flags("a code: say category in dataset.columns", "zip")
    'a code: say --column zip=category'
    >>> in_flags("if it is data, upload the file again with header=none", "")
    'if it is data, say --header none'
    >>> in_flags("upload the file again with na_values=-999 if that means no value", "age")
    'say --na-value -999 if that means no value'
    >>> in_flags("column 'fee' tells the target: say ignore in dataset.columns", "")
    "column 'fee' tells the target: say --column fee=ignore"
    """
    if named := NAMED.match(note):
        column = ast.literal_eval(named[1])

    def takes(kind: str) -> str:
        return f"--column {shlex.quote(f'{column}={kind}')}"

    note = re.sub(
        r"say \{by: (\w+), column: .*\} in dataset\.split",
        lambda found: f"say --split {shlex.quote(f'{found[1]}={column}')}",
        note,
    )
    note = re.sub(r"(?<=[Ss]ay )(\w+) or (\w+) in dataset\.columns", lambda m: f"{takes(m[1])} or {takes(m[2])}", note)
    note = re.sub(r"(?<=[Ss]ay )(\w+) in dataset\.columns", lambda found: takes(found[1]), note)
    note = note.replace("split by group (dataset.split)", f"say --split {shlex.quote(f'group={column}')}")
    note = note.replace("name it in na_values at the upload", f"name it with {FLAGS['na_values']}")
    note = note.replace("say what it is with the parameter format", "upload it with warptune upload --format")
    note = note.replace("budget.max_seconds", FLAGS["budget.max_seconds"])
    note = note.replace("Set dataset.task to regression", f"Say {takes('number')}")
    read = r"(?:upload the file again|read the file) with (\w+)=(\S+)"
    return re.sub(read, lambda found: f"say {FLAGS[found[1]]} {found[2]}", note)


def option_errors(errors: Iterable[FieldError], target: str | None) -> list[str] | None:
    """Return what is wrong with options, one sentence each; None if a field is wrong that no option sets."""
    found = []
    for error in errors:
        flag = flag_of(error.field)
        if flag is None:
            return None
        column = str(error.value) if error.field == "dataset.split.column" else target or ""
        hint = None if error.hint is None else in_flags(error.hint, column)
        found.append(str(replace(error, field=flag, hint=hint)).replace(": ", " ", 1))
    return found
