"""The commands ``upload``, ``datasets`` and ``delete-dataset``."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.console import DEFAULT_URL, Url, connected, err, failure, out


def upload(
    file: Annotated[str, typer.Argument(help="CSV, Parquet, NPZ or text file, zip of image folders, or a URL.")],
    fmt: Annotated[
        str | None,
        typer.Option("--format", help="csv, parquet, npz, text or images. Default: from the ending of the name."),
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Upload a dataset and print its id, for the field dataset.id of a job's spec.

    Example: warptune upload measurements.csv
    """
    with connected(url) as client:
        try:
            dataset, is_new = client.upload(file, fmt)
        except OSError as error:
            raise failure(f"cannot read {file}: {error.strerror or error}", 2) from None
    out.print(dataset["id"], highlight=False)
    if not is_new:
        err.print("the same file was uploaded before")


def datasets(url: Url = DEFAULT_URL) -> None:
    """List the uploaded datasets, newest first."""
    with connected(url) as client:
        found = list(client.datasets())
        for item in found:
            line = f"{item['id']}  {item['rows']:>9} rows  {item['format']:<8} {item['name']}"
            out.print(line, highlight=False, markup=False, soft_wrap=True)
    if not found:
        err.print("There are no datasets. Upload one: warptune upload FILE")


def delete_dataset(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Id of an uploaded dataset.")],
    url: Url = DEFAULT_URL,
) -> None:
    """Delete an uploaded dataset. A dataset that a job uses cannot be deleted."""
    with connected(url) as client:
        client.delete_dataset(dataset)
    out.print(f"{dataset} deleted", highlight=False, markup=False)
