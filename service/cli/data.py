# The commands about a user's own data.
"""``upload``, ``datasets``, ``delete-dataset``."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.console import DEFAULT_URL, Url, connected, err, failure, out


def upload(
    file: Annotated[str, typer.Argument(help="CSV, Parquet, NPZ, text, a zip of image folders, or the URL of one.")],
    fmt: Annotated[
        str | None, typer.Option("--format", help="csv, parquet, npz, text or images; else the name's ending decides.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Upload a dataset and print its id, which a job's spec names."""
    with connected(url) as client:
        try:
            dataset, is_new = client.upload(file, fmt)
        except OSError as error:
            raise failure(f"cannot read {file}: {error.strerror}", 2) from None
    out.print(dataset["id"], highlight=False)
    if not is_new:
        err.print("the same file was uploaded before")


def datasets(url: Url = DEFAULT_URL) -> None:
    """List the uploaded datasets, the newest first."""
    with connected(url) as client:
        found = list(client.datasets())
        for item in found:
            line = f"{item['id']}  {item['rows']:>9} rows  {item['format']:<8} {item['name']}"
            out.print(line, highlight=False, markup=False, soft_wrap=True)
    if not found:
        err.print("no datasets")


def delete_dataset(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Id of an uploaded dataset.")],
    url: Url = DEFAULT_URL,
) -> None:
    """Delete an uploaded dataset that no job uses."""
    with connected(url) as client:
        client.delete_dataset(dataset)
    out.print(f"{dataset} deleted", highlight=False, markup=False)
