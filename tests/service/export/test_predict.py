# New rows are scored as the kept model scores the prepared ones: by the command, and by the script of the zip in a
# process that does not have the service. The rows of the test part are written to a file as the user's own was.
from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import load_file
from typer.testing import CliRunner

from service.api.app import create_app
from service.artifacts import PREPROCESSING_FILE, ArtifactStore, weights_file
from service.cli.app import app
from service.data.columns import retyped
from service.data.facts import Reading, dataset_info
from service.data.prepare import prepare_job_data
from service.data.splits import RowSplit
from service.data.upload import Upload, format_of
from service.db.models import Job
from service.export.files import ExportFormat, write
from service.planning.plan import make_plan
from service.result.job_result import KeptWeights
from service.running.context import store_prepared
from service.settings import Settings
from service.spec.dataset_info import DatasetInfo
from service.spec.job import JobSpec
from service.training.loop import train
from service.training.networks import build_network
from service.training.tasks import in_units
from service.user_code.probe import UserCode
from tests.bare_install import run_bare
from tests.conftest import SpecMaker
from tests.service.conftest import WorkerMaker
from tests.service.data import files
from tests.service.results import a_result
from tests.service.user_code import models
from warptune.data import as_rows

Numbers = npt.NDArray[np.float64]
Table = dict[str, list[str]]

MLP = {"name": "mlp", "hidden": [8]}
ROWS = 150
ANSWERS = ("no", "maybe", "yes")
HEADER = ["id", "age", "income", "joined", "city", "ok", "note", "code", "level", "answer"]


def people() -> list[list[str]]:
    """Rows as people have them: gaps, odd cells, amounts with a unit, dates, categories few and many, texts, an id."""
    rng = np.random.default_rng(7)
    rows = []
    for number in range(ROWS):
        age = "" if number % 9 == 4 else "n/k" if number == 30 else str(20 + number % 40)
        income = f"{rng.integers(1, 90)}.{rng.integers(100, 999)},{rng.integers(10, 99)} €"
        day = f"{number % 28 + 1:02d}.{number % 12 + 1:02d}.{2020 + number % 4}"
        city, ok = ("Köln", "Rome", "Oslo", "")[number % 4], ("yes", "No")[number % 2]
        note, code = f"note {number}; words{number % 5}", f"q{number % 60}"
        level = f"{number % 5 / 2:.2f}"  # a category that looks like a number
        rows.append([f"c{number:04d}-X", age, income, day, city, ok, note, code, level, ANSWERS[number % 3]])
    return rows


def written(header: Sequence[str], rows: Sequence[Sequence[str]], separator: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def table(text: str) -> Table:
    header, *rows = csv.reader(io.StringIO(text))
    return {name: [row[index] for row in rows] for index, name in enumerate(header)}


def numbers(cells: Sequence[str]) -> Numbers:
    return np.array([float(cell) for cell in cells])


def softmax(outputs: Numbers) -> Numbers:
    raised: Numbers = np.exp(outputs - outputs.max(1, keepdims=True))
    shares: Numbers = raised / raised.sum(1, keepdims=True)
    return shares


@dataclass(frozen=True)
class Kept:
    """A zip of a job, unpacked."""

    zip: Path
    folder: Path
    test_loss: float

    @classmethod
    def of(cls, file: Path, test_loss: float) -> Kept:
        folder = file.with_name("alone")
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)
        return cls(file, folder, test_loss)

    @property
    def prepared(self) -> tuple[npt.NDArray[np.float32], Any]:
        """The rows and targets of the test part."""
        with np.load(self.folder / "data.npz", allow_pickle=False) as arrays:
            return arrays["x_test"], arrays["y_test"]

    @property
    def fitted(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "preprocessing.json").read_text())
        return content

    def outputs(self) -> Numbers:
        """Return what the kept model gives for the test part."""
        run = json.loads((self.folder / "manifest.json").read_text())["run"]
        model = build_network(run["model"], tuple(run["shape"]), run["sizes"], run["activation"])
        model.load_state_dict(load_file(self.folder / "weights.safetensors"))
        with torch.no_grad():
            found: Numbers = model.eval()(torch.from_numpy(self.prepared[0])).double().numpy()
        return found

    def invoke(self, file: Path) -> Any:
        done: Any = CliRunner().invoke(app, ["predict", str(self.zip), str(file)])
        return done

    def by_command(self, file: Path) -> tuple[Table, str]:
        """Return what the command writes, and its notes."""
        done = self.invoke(file)
        assert done.exit_code == 0, done.output
        return table(done.stdout), done.stderr

    def refusal(self, file: Path) -> str:
        done = self.invoke(file)
        assert (done.exit_code, done.stdout) == (1, "")
        assert isinstance(done.exception, SystemExit)
        return str(done.stderr)

    def run_script(self, file: Path, needed: Sequence[str]) -> tuple[int, str, str]:
        """Run the script in a process without the service; of its dependencies it may import those that are needed."""
        script = str(self.folder / "predict.py")
        code = f"import runpy; sys.argv[1:] = [{str(file)!r}]; runpy.run_path({script!r}, run_name='__main__')"
        done = run_bare(code, ours=False, needed=needed)
        return done.returncode, done.stdout, done.stderr

    def by_script(self, file: Path, needed: Sequence[str] = ("pyarrow",)) -> tuple[Table, str]:
        """Return what the script writes, and its notes."""
        status, found, notes = self.run_script(file, needed)
        assert status == 0, notes
        return table(found), notes


def kept(folder: Path, spec: JobSpec, info: DatasetInfo | None = None, upload: Path | None = None) -> Kept:
    """Train a model as the first confirmation run of a job does, and export it."""
    store = ArtifactStore(str(folder / "artifacts"))
    if upload is not None:
        with store.staged_dataset(str(spec.dataset.id), upload) as put_files:
            put_files()
    plan = make_plan(spec, info)
    prepared = folder / "prepared"
    prepared.mkdir()
    data = store_prepared(store, "job-0", prepare_job_data(spec, plan.info.task, store, lambda _: None, prepared))
    run = plan.run("adamw", {"lr": 0.01}, data, seed=1, test=True)
    (*_, end) = train(replace(run, weights_url=store.path("job-0", weights_file(3))))
    assert end.test_loss is not None
    weights, fitted = (store.sha256("job-0", name) for name in (weights_file(3), PREPROCESSING_FILE))
    assert weights is not None
    model = KeptWeights(
        file=weights_file(3), sha256=weights, preprocessing_sha256=fitted, seed=1, test_loss=end.test_loss
    )
    job = Job(id="job-0", name="", spec=spec.to_json(), dataset_info=None, data_sha256=data.sha256)
    if info is not None:
        job.dataset_info = asdict(info)
    with (folder / "job.zip").open("wb") as file:
        write(job, a_result(arm="adamw", config=dict(run.config), weights=model), ExportFormat.ZIP, store, file)
    return Kept.of(folder / "job.zip", end.test_loss)


def spec_of(**parts: Any) -> JobSpec:
    """Return the spec of a job with short runs."""
    budget = {"trials_per_arm": 1, "steps": 40, "batch_size": 32}
    return JobSpec.model_validate({"search_space": {"preset": "quick"}, "budget": budget, "model": MLP, **parts})


def uploaded(
    folder: Path, name: str, content: bytes, model: dict[str, Any], reading: Reading | None = None, **dataset: Any
) -> Kept:
    with Upload(format_of(name) or pytest.fail(name), 1 << 24, reading or Reading()) as upload:
        upload.write(content)
        facts, stored = upload.unpack()
        spec = spec_of(dataset={"id": "ds-1", **dataset}, model=model)
        info = dataset_info(retyped(facts, spec.dataset.columns, stored), spec.dataset)
        return kept(folder, spec, info, stored)


@pytest.fixture(scope="module")
def of_people(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    content, kinds = written(HEADER, people(), ";").encode(), {"level": "category", "code": "category"}
    folder = tmp_path_factory.mktemp("people")
    return uploaded(folder, "people.csv", content, MLP, target="answer", columns=kinds)


@pytest.fixture(scope="module")
def of_gaps(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """A model of one column of texts, with gaps."""
    lines = [f"{'' if row % 5 == 0 else f'q{row % 3}'},{'uv'[row % 2]}" for row in range(80)]
    return uploaded(tmp_path_factory.mktemp("gaps"), "a.csv", "\n".join(["a,y", *lines]).encode(), MLP, target="y")


def test_rows_of_a_table_are_scored_as_the_prepared_ones(of_people: Kept, tmp_path: Path) -> None:
    rows, classes = people(), sorted(ANSWERS)
    test = RowSplit().parts(ROWS, 0, np.array([classes.index(row[-1]) for row in rows]))["test"]
    x, y = of_people.prepared
    assert [classes[index] for index in y] == [rows[row][-1] for row in test]
    expected = softmax(of_people.outputs())
    file = tmp_path / "new.csv"
    file.write_text(written(HEADER, [rows[row] for row in test], ";"))
    for found, notes in (of_people.by_command(file), of_people.by_script(file, ("pyarrow", "sklearn", "scipy"))):
        probabilities = np.stack([numbers(found[f"probability_{name}"]) for name in classes], 1)
        assert probabilities == pytest.approx(expected, abs=1e-6)
        assert found["prediction"] == [classes[index] for index in expected.argmax(1)]
        loss = -np.log(probabilities[np.arange(len(x)), y]).mean()
        assert loss == pytest.approx(of_people.test_loss, abs=1e-6)
        assert "columns that are not used: 'id', 'answer' (the target)" in notes


def diabetes() -> tuple[list[str], list[list[str]], Numbers]:
    from sklearn.datasets import load_diabetes

    found = load_diabetes()
    return list(found.feature_names), [[repr(float(cell)) for cell in row] for row in found.data], found.target


@pytest.mark.parametrize("name", ["bundled", "hooked", "parquet"])
def test_a_regression_predicts_in_the_units_of_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    header, rows, target = diabetes()
    monkeypatch.setenv("WARPTUNE_ALLOWED_MODULES", models.__name__)
    if name != "parquet":
        own = {"name": "entrypoint", "entrypoint": f"{models.__name__}:hooked"}
        spec = spec_of(dataset={"name": "diabetes"}, model=own if name == "hooked" else MLP)
        made = kept(tmp_path, spec, UserCode(Settings()).info_for(spec, None))
        test = RowSplit().parts(len(rows), 0, None, keeps_draw_order=True)["test"]
    else:
        made = uploaded(tmp_path, "diabetes.parquet", files.parquet(), MLP, target="y")
        test = RowSplit().parts(len(rows), 0, None)["test"]
    mean, scale = made.fitted["target"]["transform"]["standardise"]
    file = tmp_path / "new.csv"
    file.write_text(written(header, [rows[row] for row in test]))
    for found, _ in (made.by_command(file), made.by_script(file)):
        predicted = numbers(found["prediction"])
        assert predicted == pytest.approx(made.outputs()[:, 0] * scale + mean, rel=1e-6)
        assert ((predicted - target[test]) ** 2).mean() / scale**2 == pytest.approx(made.test_loss, abs=1e-6)
        assert 25 < predicted.mean() < 346  # the range of the target


@pytest.mark.parametrize("transform", ["log1p", "quantile"])
def test_a_transformed_target_is_predicted_in_its_units_on_any_split(tmp_path: Path, transform: str) -> None:
    header, rows, target = diabetes()
    groups = [str(row % 40) for row in range(len(rows))]
    with_group = [[*row, group, repr(float(y))] for row, group, y in zip(rows, groups, target, strict=True)]
    content = written([*header, "site", "y"], with_group).encode()
    split = {"by": "group", "column": "site"}
    made = uploaded(tmp_path, "d.csv", content, MLP, target="y", target_transform=transform, split=split)
    undo = {name: torch.tensor(values) for name, values in made.fitted["target"]["transform"].items()}
    assert list(undo) == [transform]
    expected = in_units(torch.from_numpy(made.outputs()), undo)[:, 0].numpy()
    test = RowSplit("group", np.arange(len(rows)) % 40).parts(len(rows), 0, None)["test"]
    file = tmp_path / "new.csv"
    file.write_text(written([*header, "site"], [with_group[row][:-1] for row in test]))
    for found, notes in (made.by_command(file), made.by_script(file)):
        assert numbers(found["prediction"]) == pytest.approx(expected, rel=1e-6)
        assert 25 < numbers(found["prediction"]).mean() < 346  # the range of the target
        assert "columns that are not used: 'site'" in notes


def test_rows_of_a_file_with_types_are_scored_from_csv(tmp_path: Path) -> None:
    days = [datetime.datetime(2020 + row % 3, 1 + row % 12, 1 + row % 28, row % 24) for row in range(80)]
    columns: dict[str, Any] = {
        "day": days,
        "ok": [row % 3 == 0 if row % 9 else None for row in range(80)],
        "size": pa.array([row % 5 * 10 for row in range(80)]).dictionary_encode(),
        "x": [row / 7 if row % 8 else None for row in range(80)],
        "y": [row % 11 / 4 + row for row in range(80)],
    }
    made = uploaded(tmp_path, "a.parquet", files.table(**columns), MLP, target="y")
    test = RowSplit().parts(80, 0, None)["test"]
    file, plain = tmp_path / "new.csv", {name: pa.array(cells).to_pylist() for name, cells in columns.items()}
    cells = [["" if plain[name][row] is None else str(plain[name][row]) for name in plain] for row in test]
    file.write_text(written(list(plain), cells))
    mean, scale = made.fitted["target"]["transform"]["standardise"]
    for found, notes in (made.by_command(file), made.by_script(file)):
        assert numbers(found["prediction"]) == pytest.approx(made.outputs()[:, 0] * scale + mean, rel=1e-6)
        assert notes.startswith("columns that are not used: 'y' (the target)\n")
        assert "column 'day'" not in notes


def test_times_of_day_and_durations_are_scored_however_they_are_given(tmp_path: Path) -> None:
    clock = [datetime.time(row * 7 % 24, row % 60, row % 30, row % 2 * 500_000) for row in range(80)]
    took = [datetime.timedelta(seconds=row * 997 % 9000 + 0.25) for row in range(80)]
    stage = [f"s{row % 3}" for row in range(80)]
    slot = [datetime.time(9 + row % 3) for row in range(80)]
    y = [at.hour + duration.total_seconds() / 900 for at, duration in zip(clock, took, strict=True)]
    columns: dict[str, list[Any]] = {"clock": clock, "took": took, "stage": stage, "slot": slot}
    made = uploaded(tmp_path, "a.parquet", files.table(**columns, y=y), MLP, target="y", columns={"slot": "category"})
    test = RowSplit().parts(80, 0, None)["test"]
    new = {name: [cells[row] for row in test] for name, cells in columns.items()}
    midnight = datetime.datetime(2024, 1, 1)
    seconds: dict[str, list[Any]] = {
        **new,
        "clock": [(datetime.datetime.combine(midnight, at) - midnight).total_seconds() for at in new["clock"]],
        "took": [duration.total_seconds() for duration in new["took"]],
        "slot": [at.hour * 3600 for at in new["slot"]],
    }
    mean, scale = made.fitted["target"]["transform"]["standardise"]
    expected = made.outputs()[:, 0] * scale + mean
    as_texts = tmp_path / "texts.csv"
    as_texts.write_text(written(list(new), [[str(cell) for cell in row] for row in zip(*new.values(), strict=True)]))
    (tmp_path / "frame").mkdir()
    as_seconds = tmp_path / "seconds.csv"
    as_seconds.write_text(written(list(seconds), [list(row) for row in zip(*seconds.values(), strict=True)]))
    for file in (as_texts, as_seconds, as_rows(pd.DataFrame(new), tmp_path / "frame")):
        for found, notes in (made.by_command(file), made.by_script(file)):
            assert numbers(found["prediction"]) == pytest.approx(expected, rel=1e-5)
            assert notes == "16 rows scored\n" or not notes


@pytest.mark.parametrize("model", [{"name": "convnet", "channels": [4]}, MLP])
def test_images_are_scored_from_arrays(tmp_path: Path, model: dict[str, Any]) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    made = uploaded(tmp_path, "digits.npz", files.digits_npz(), model)
    test = RowSplit().parts(len(digits.target), 0, digits.target)["test"]
    images = digits.images[test].astype(np.uint8)
    np.save(tmp_path / "new.npy", images)
    np.savez(tmp_path / "new.npz", x=images[:, None])  # with an axis for the one channel
    expected = softmax(made.outputs())
    results = [made.by_command(tmp_path / "new.npy"), made.by_command(tmp_path / "new.npz")]
    for found, _ in (*results, made.by_script(tmp_path / "new.npy")):
        probabilities = np.stack([numbers(found[f"probability_{digit}"]) for digit in range(10)], 1)
        assert probabilities == pytest.approx(expected, abs=1e-6)
        loss = -np.log(probabilities[np.arange(len(test)), digits.target[test]]).mean()
        assert loss == pytest.approx(made.test_loss, abs=1e-5)


def test_a_model_of_the_users_own_code_scores_new_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPTUNE_ALLOWED_MODULES", "examples.gated_mlp")
    spec = spec_of(
        dataset={"name": "diabetes"}, model={"name": "entrypoint", "entrypoint": "examples.gated_mlp:make_model"}
    )
    made = kept(tmp_path, spec, UserCode(Settings()).info_for(spec, None))
    header, rows, _ = diabetes()
    file = tmp_path / "new.csv"
    file.write_text(written(header, rows[:9]))
    found, _ = made.by_command(file)
    assert len(found["prediction"]) == 9
    again, _ = made.by_script(file)
    assert numbers(again["prediction"]) == pytest.approx(numbers(found["prediction"]), rel=1e-6)
    monkeypatch.delenv("WARPTUNE_ALLOWED_MODULES")
    assert "WARPTUNE_ALLOWED_MODULES" in made.refusal(file)


def test_an_autoencoder_gives_the_error_of_its_copy(tmp_path: Path) -> None:
    made = kept(tmp_path, spec_of(dataset={"name": "digits"}, model={"name": "autoencoder", "hidden": [16], "code": 4}))
    from sklearn.datasets import load_digits

    digits = load_digits()
    test = RowSplit().parts(len(digits.target), 0, digits.target, keeps_draw_order=True)["test"]
    np.save(tmp_path / "new.npy", digits.data[test])
    for found, _ in (made.by_command(tmp_path / "new.npy"), made.by_script(tmp_path / "new.npy")):
        assert numbers(found["reconstruction_error"]).mean() == pytest.approx(made.test_loss, abs=1e-6)


def test_a_file_that_is_written_in_another_way_means_the_same(of_people: Kept, tmp_path: Path) -> None:
    """Another separator, encoding and order of columns, compressed, numbers and dates in another form."""
    rows = [row for row in people() if row[1] != "n/k"][:40]
    plain, other = tmp_path / "plain.csv", tmp_path / "other.csv.gz"
    plain.write_text(written(HEADER, rows, ";"))
    changed = []
    for id_, age, income, day, *rest in rows:
        amount = income.removesuffix(" €").replace(".", "").replace(",", ".")
        changed.append([*reversed(rest), "-".join(reversed(day.split("."))), amount, age, id_, "more"])
    header = [*reversed(HEADER), "more"]
    other.write_bytes(gzip.compress(written(header, changed, "\t").encode("cp1252")))
    found, _ = of_people.by_command(plain)
    again, notes = of_people.by_command(other)
    assert again == found
    assert "column 'income' is written in another way than in training: read as plain numbers" in notes
    assert "column 'joined' is written in another way than in training: read as yyyy-mm-dd" in notes
    assert "columns that are not used: 'answer' (the target), 'id', 'more'" in notes


def test_spaces_around_cells_mean_nothing(of_people: Kept, tmp_path: Path) -> None:
    rows = [row for row in people() if row[1] != "n/k"][:40]
    plain, spaced = tmp_path / "plain.csv", tmp_path / "spaced.csv"
    plain.write_text(written(HEADER, rows, ";"))
    header, *padded = [[f" {cell}\u00a0" for cell in row] for row in (HEADER, *rows)]
    spaced.write_text(written(header, padded, ";"))
    for predicted in (of_people.by_command, lambda file: of_people.by_script(file, ("pyarrow", "sklearn", "scipy"))):
        assert predicted(spaced) == predicted(plain)


def test_long_texts_and_text_behind_a_quote_are_read(of_people: Kept, tmp_path: Path) -> None:
    rows = [row for row in people() if row[1] != "n/k"][:40]
    rows[3][6] = "word " * 40_000
    file = tmp_path / "long.csv"
    file.write_text(written(HEADER, rows, ";").replace("Oslo", '"Os"lo'))
    assert of_people.by_script(file, ("pyarrow", "sklearn", "scipy"))[0] == of_people.by_command(file)[0]


def test_one_word_in_the_alphabet_of_the_training_file_is_read(tmp_path: Path) -> None:
    cities = ("Москва", "Казань", "Тверь")
    lines = [f"{row % 7};{cities[row % 3]};{'ab'[row % 2]}" for row in range(80)]
    content = "\n".join(["x;город;y", *lines]).encode("cp1251")
    made = uploaded(tmp_path, "a.csv", content, MLP, target="y")
    file, found = tmp_path / "new.csv", []
    for encoding in ("cp1251", "utf-8", "utf-16"):
        file.write_bytes("x;город\n3;Москва\n".encode(encoding))
        result, notes = made.by_command(file)
        assert "training did not have" not in notes
        found.append(result)
    assert found[0] == found[1] == found[2]
    file.write_bytes("x;город\n3;Москва\n".encode("cp1251"))
    assert made.by_script(file)[0] == found[0]


def test_one_row_is_scored_as_it_is_among_others(of_people: Kept, tmp_path: Path) -> None:
    rows = people()[:20]
    file = tmp_path / "all.csv"
    file.write_text(written(HEADER, rows, ";"))
    together, _ = of_people.by_command(file)
    for index, row in enumerate(rows[:7]):
        file.write_text(written(HEADER, [row], ";"))
        alone, _ = of_people.by_command(file)
        assert {name: numbers(cells) for name, cells in alone.items() if name != "prediction"} == {
            name: pytest.approx(numbers(cells[index : index + 1]), abs=1e-6)
            for name, cells in together.items()
            if name != "prediction"
        }


GAPS = ["q1", None, "q2", "q0", None]


@pytest.mark.parametrize(
    "content",
    ['a\nq1\n""\nq2\nq0\n""\n', 'a\nq1\n\nq2\nq0\n""\n\n\n', 'a\r\nq1\r\nNA\r\nq2\r\nq0\r\n""', None],
    ids=["pandas", "empty lines", "Windows", "frame"],
)
def test_a_missing_value_in_the_only_column_is_a_row(of_gaps: Kept, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "new.csv"
    if content is None:
        file = as_rows(pd.DataFrame({"a": GAPS}), tmp_path)
    else:
        file.write_bytes(content.encode())
    for found, _ in (of_gaps.by_command(file), of_gaps.by_script(file)):
        assert len(found["prediction"]) == len(GAPS)
        assert found["probability_u"][1] == found["probability_u"][4]
        assert len({found["probability_u"][row] for row in range(4)}) == 4


def test_a_row_of_empty_cells_is_a_row_and_an_empty_line_is_none(of_people: Kept, tmp_path: Path) -> None:
    file = tmp_path / "new.csv"
    rows = people()
    file.write_text(
        written(HEADER, [rows[0], [""] * len(HEADER), rows[1]], ";") + "\n" + written(rows[2], [], ";") + "\n"
    )
    for found, _ in (of_people.by_command(file), of_people.by_script(file, ("pyarrow", "sklearn", "scipy"))):
        assert len(found["prediction"]) == 4


def test_cells_that_training_did_not_have_are_named(of_people: Kept, tmp_path: Path) -> None:
    rows = people()[:12]
    rows[3][1], rows[5][4], rows[7][2], rows[8][8] = "old", "Paris", "", "9"
    file = tmp_path / "new.csv"
    file.write_text(written(HEADER, rows, ";"))
    for _, notes in (of_people.by_command(file), of_people.by_script(file, ("pyarrow", "sklearn", "scipy"))):
        assert "column 'age': 1 of 12 cells are not numbers, so they count as missing" in notes
        assert "the first is 'old' in row 4" in notes
        assert "column 'city': 1 of 12 cells are values that training did not have" in notes
        assert "the first is 'Paris' in row 6" in notes
        assert "column 'income': 1 of 12 cells are empty, which none was in training: the median is used" in notes
        assert "the first is '9' in row 9" in notes


def test_odd_and_unseen_cells_count_as_missing_ones(of_people: Kept, tmp_path: Path) -> None:
    odd, empty = people()[:1], people()[:1]
    odd[0][1], odd[0][4] = "old", "Paris"
    empty[0][1], empty[0][4] = "", ""
    found = []
    for name, rows in (("odd.csv", odd), ("empty.csv", empty)):
        (tmp_path / name).write_text(written(HEADER, rows, ";"))
        found.append(of_people.by_command(tmp_path / name)[0])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "a.csv",
            "age;city\n3;Rome\n",
            "the file has no column 'income', 'joined', 'ok', 'note', 'code', 'level'; ",
        ),
        ("a.csv", "\n", "the file has no header: every line is empty"),
        ("a.csv", ";".join(HEADER) + "\n", "it has no rows below the header"),
        ("a.csv", "a;a\n1;2\n", "column 2 has the name 'a' of another column"),
        ("a.parquet", "PAR1", "it is a file of format parquet; expected CSV, or an array as .npy or .npz"),
        ("a.npy", "", "it cannot be read as an array: No data left in file"),
        ("a.npz", "PK", "it cannot be read as an array: "),
        ("a.npy", None, "the model was trained on a table with named columns; give a CSV file"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    of_people: Kept, tmp_path: Path, name: str, content: str | None, reason: str
) -> None:
    file = tmp_path / name
    if content is None:
        np.save(file, np.zeros((2, 9)))
    else:
        file.write_text(content)
    assert of_people.refusal(file).startswith(f"error: {file}: {reason}")


def test_the_script_says_what_does_not_fit(of_people: Kept, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    for content, reason in (
        ("age;city\n3;Rome\n", "the file has no column 'income'"),
        ("age;city\n3\n", f"line 2 of {file} has 1 cells, the header 2; separator: ';'"),
        ("age;city\n", f"{file} has no rows below a header"),
        (gzip.compress(b"age;city\n3;Rome\n")[:-9], "it cannot be read as gzip: "),
        ('age;city\n3;Rome\n4;"Oslo\n' + "5;Rome\n" * 30_000, "line 3 opens a quote that is not closed"),
    ):
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        status, found, error = of_people.run_script(file, ["pyarrow"])
        assert (status, found) == (1, "")
        assert error.startswith(f"{file}: {reason}")
    changed = replace(of_people, folder=tmp_path / "changed")
    shutil.copytree(of_people.folder, changed.folder)
    (changed.folder / "weights.safetensors").write_bytes(b"1")
    assert "weights.safetensors is not the one of the job" in changed.run_script(file, ["pyarrow"])[2]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((3, 9, 9)), "with the shape (3, 9, 9); expected numbers, rows x 1 x 8 x 8"),
        (np.full((3, 64), np.nan), "the array is nan in row 1, column 1; expected finite numbers"),
        (np.zeros((0, 64)), "with the shape (0, 64); expected numbers, rows x 1 x 8 x 8"),
        (np.zeros(()), "with the shape (); expected numbers, rows x 1 x 8 x 8"),
        (np.array(["a"]), "the array is of <U1 with the shape (1,); expected numbers"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(tmp_path: Path, array: npt.NDArray[Any], reason: str) -> None:
    made = kept(tmp_path, spec_of(dataset={"name": "digits"}, model=MLP))
    np.save(tmp_path / "new.npy", array)
    assert reason in made.refusal(tmp_path / "new.npy")


def test_a_gap_in_data_that_had_none_is_refused(tmp_path: Path) -> None:
    header, rows, _ = diabetes()
    made = kept(tmp_path, spec_of(dataset={"name": "diabetes"}, model=MLP))
    file = tmp_path / "new.csv"
    file.write_text(written(header, [rows[0], [*rows[1][:-1], "high"]]))
    assert "column 's6' is 'high' in row 2; expected a number" in made.refusal(file)


def test_large_numbers_of_an_array_are_scored_with_every_digit(tmp_path: Path) -> None:
    x = 1_700_000_000 + np.arange(80)[:, None]
    made = uploaded(tmp_path, "a.npz", files.npz(x=x, y=np.arange(80) % 2), MLP)
    test = RowSplit().parts(80, 0, np.arange(80) % 2)["test"]
    np.save(tmp_path / "new.npy", x[test])
    expected = softmax(made.outputs())[:, 1]
    assert len(np.unique(expected)) == len(test)
    for found, _ in (made.by_command(tmp_path / "new.npy"), made.by_script(tmp_path / "new.npy")):
        assert numbers(found["probability_1"]) == pytest.approx(expected, abs=1e-6)


def test_columns_of_an_uploaded_array_have_no_names(tmp_path: Path) -> None:
    made = uploaded(tmp_path, "digits.npz", files.digits_npz(), MLP)
    file = tmp_path / "new.csv"
    file.write_text("a,b\n1,2\n")
    assert "the model was trained on arrays, whose columns have no names; give a .npy or .npz file" in made.refusal(
        file
    )


def test_a_category_that_was_kept_as_numbers_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    lines = [f"{row % 4}.5,{row % 7},{'ab'[row % 2]}" for row in range(80)]
    content = "\n".join(["size,x,y", *lines]).encode()
    made = uploaded(tmp_path, "a.csv", content, MLP, target="y", columns={"size": "category"})
    found = []
    for cell in ("2.5", "2.50", "2.5e0"):
        (tmp_path / "new.csv").write_text(f"size,x\n{cell},3\n")
        result, notes = made.by_command(tmp_path / "new.csv")
        assert "training did not have" not in notes
        found.append(result)
    assert found[0] == found[1] == found[2]


def test_a_number_that_stands_for_a_missing_value_does_so_however_it_is_written(tmp_path: Path) -> None:
    lines = [f"{-999 if row % 4 == 0 else row % 7 + 0.5},{row % 3},{'ab'[row % 2]}" for row in range(80)]
    content = "\n".join(["x,size,y", *lines]).encode()
    marks = Reading(na_values=("-999", "0"))
    made = uploaded(tmp_path, "a.csv", content, MLP, marks, target="y", columns={"size": "category"})
    file, found = tmp_path / "new.csv", list[Numbers]()
    for x, size in (("-999", "0"), ("-999.0", "0.0"), (" -9.99e2", "0e0"), ("", "")):
        file.write_text(f"x,size\n{x},{size}\n1.5,2\n")
        for result, notes in (made.by_command(file), made.by_script(file)):
            assert "training did not have" not in notes
            found.append(numbers(result["probability_a"]))
            assert found[-1] == pytest.approx(found[0])
    assert found[0][0] != pytest.approx(found[0][1])


def test_a_number_that_stands_for_no_value_does_so_in_amounts_too(tmp_path: Path) -> None:
    lines = [f"{-999 if row % 4 == 0 else row % 7},50 €;{'ab'[row % 2]}" for row in range(80)]
    content = "\n".join(["x;y", *lines]).encode()
    made = uploaded(tmp_path, "a.csv", content, MLP, Reading(na_values=("-999.5",)), target="y")
    file = tmp_path / "new.csv"
    file.write_text("".join(f"{cell};a\n" for cell in ("-999,50 €", "-999,5€", "", "1,50 €")).join(["x;y\n", ""]))
    for result, notes in (made.by_command(file), made.by_script(file)):
        assert "not numbers" not in notes
        found = numbers(result["probability_a"])
        assert found[:3] == pytest.approx(found[0])
        assert found[0] != pytest.approx(found[3])
    file.write_text("x,y\n$-999.5,a\n$1.5,b\n")
    result, notes = made.by_command(file)
    assert "column 'x' is written in another way than in training: read as $" in notes
    assert numbers(result["probability_a"]) == pytest.approx(found[[0, 3]])


def test_times_of_a_12_hour_clock_and_amounts_in_thousands_are_scored_as_in_training(tmp_path: Path) -> None:
    moments = [datetime.datetime(2024, 1, 1) + datetime.timedelta(minutes=row * 97) for row in range(80)]
    cells = [[f"{at:%I:%M %p}", f"${row * 13 % 37}.5k", "ab"[row % 2]] for row, at in enumerate(moments)]
    made = uploaded(tmp_path, "a.csv", written(["at", "fare", "y"], cells).encode(), MLP, target="y")
    assert [column["kind"] for column in made.fitted["features"]["columns"]] == ["number", "number"]
    test = RowSplit().parts(80, 0, np.array([row % 2 for row in range(80)]))["test"]
    expected, file = softmax(made.outputs())[:, 0], tmp_path / "new.csv"
    file.write_text(written(["at", "fare", "y"], [cells[row] for row in test]))
    on_24_hours = tmp_path / "other.csv"
    on_24_hours.write_text(written(["at", "fare", "y"], [[f"{moments[row]:%H:%M}", *cells[row][1:]] for row in test]))
    for given in (file, on_24_hours):
        for found, notes in (made.by_command(given), made.by_script(given)):
            assert numbers(found["probability_a"]) == pytest.approx(expected, abs=1e-6)
            assert "not numbers" not in notes


@pytest.mark.parametrize("how", ["fractions", "whole numbers", "Parquet"])
def test_a_boolean_that_was_kept_as_numbers_is_the_same_however_it_is_written(tmp_path: Path, how: str) -> None:
    given = [None if row % 9 == 0 else row % 2 for row in range(80)]
    labels = ["ab"[row * 5 % 7 % 2] for row in range(80)]
    if how == "Parquet":
        as_words = [None if cell is None else bool(cell) for cell in given]
        made = uploaded(tmp_path, "a.parquet", files.table(b=as_words, y=labels), MLP, target="y")
    else:
        cells = ["" if cell is None else f"{cell:.1f}" if how == "fractions" else str(cell) for cell in given]
        lines = [f"{cell},{label}" for cell, label in zip(cells, labels, strict=True)]
        content = "\n".join(["b,y", *lines]).encode()
        made = uploaded(tmp_path, "a.csv", content, MLP, target="y", columns={"b": "boolean"})
    file = tmp_path / "new.csv"
    true, false = ("1", "1.0", "1e0", "True", "yes"), ("0", "0.0", "0e0", "False", "no")
    file.write_text("".join(f"{cell},a\n" for cell in ("b", *true, *false, "2.5", "")).replace("b,a", "b,y"))
    for result, notes in (made.by_command(file), made.by_script(file)):
        said = "column 'b': 1 of 12 cells are not booleans, so they count as missing; the first is '2.5' in row 11"
        assert said in notes
        found = numbers(result["probability_a"])
        for start, count in ((0, 5), (5, 5), (10, 2)):
            assert found[start : start + count] == pytest.approx(found[start])
        assert len(set(found.round(6))) == 3
    file.write_text("b;y\n1,0;a\n0,0;a\n2,5;a\n;a\n")
    result, notes = made.by_command(file)
    assert "column 'b' is written in another way than in training: read as decimal ,\n" in notes
    assert "not booleans, so they count as missing; the first is '2.5' in row 3" in notes
    assert numbers(result["probability_a"]) == pytest.approx(found[[0, 5, 10, 11]])


def test_a_first_column_without_a_name_is_found_in_new_rows(tmp_path: Path) -> None:
    lines = [f"r{row % 3},{row * 7 % 13},{'ab'[row % 2]}" for row in range(80)]
    made = uploaded(tmp_path, "a.csv", "\n".join([",x,y", *lines]).encode(), MLP, target="y")
    new = {"": ["r0", "r1", "r2"], "x": [1, 2, 3]}
    frame = pd.DataFrame(new)
    (tmp_path / "again").mkdir()
    named = tmp_path / "named.csv"
    named.write_text("Unnamed: 0,x\nr0,1\nr1,2\nr2,3\n")
    plain = tmp_path / "plain.csv"
    frame.to_csv(plain, index=False)
    files = (named, plain, as_rows(frame, tmp_path), as_rows(frame[["x", ""]], tmp_path / "again"))
    found = [predicted(file)[0] for file in files for predicted in (made.by_command, made.by_script)]
    assert len(found[0]["prediction"]) == 3
    for result in found[1:]:
        assert numbers(result["probability_a"]) == pytest.approx(numbers(found[0]["probability_a"]))


HEADS: dict[str, Any] = {
    "title": lambda text: f"Sales of 2024,,\n,,\n{text}".encode(),
    "remarks": lambda text: f"# made by a tool\n# units: m, s\n{text}".encode(),
    "separator at the end": lambda text: text.replace("\n", ",\n").encode(),
    "separator at the end of rows": lambda text: text.replace("\n", ",\n").replace("y,\n", "y\n", 1).encode(),
    "row names": lambda text: "".join(
        f"{'' if row == 0 else f'r{row},'}{line}" for row, line in enumerate(text.splitlines(keepends=True))
    ).encode(),
    "gzip": lambda text: gzip.compress(text.encode()),
    "marked UTF-8": lambda text: text.encode("utf-8-sig"),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_training_file_itself_can_be_scored(tmp_path: Path, name: str) -> None:
    lines = [f"{row * 7 % 13},{'uvw'[row * 5 % 3]},{'ab'[row % 2]}" for row in range(80)]
    text = "\n".join(["x,z,y", *lines, ""])
    file = tmp_path / f"train.csv{'.gz' if name == 'gzip' else ''}"
    file.write_bytes(HEADS[name](text))
    made = uploaded(tmp_path, file.name, file.read_bytes(), MLP, target="y")
    assert {column["name"] for column in made.fitted["features"]["columns"]} >= {"x", "z"}
    test = RowSplit().parts(80, 0, np.array([row % 2 for row in range(80)]))["test"]
    expected = softmax(made.outputs())
    for found, notes in (made.by_command(file), made.by_script(file)):
        probabilities = np.stack([numbers(found[f"probability_{label}"]) for label in "ab"], 1)
        assert len(probabilities) == 80
        assert probabilities[test] == pytest.approx(expected, abs=1e-6)
        left_out = "'Unnamed: 0', " if name == "row names" else ""
        assert f"columns that are not used: {left_out}'y' (the target)\n" in notes


def test_new_rows_for_a_file_without_a_header_may_have_none_or_its_names(tmp_path: Path) -> None:
    lines = [f"{row * 7 % 31 / 4},{row * 5 % 23 / 8},{'ab'[row * 3 % 7 % 2]}" for row in range(ROWS)]
    made = uploaded(tmp_path, "a.csv", "\n".join(lines).encode(), MLP, target="column_3")
    found = []
    for text in (
        lines[0],
        "\n".join(lines[:1]),
        f"column_1,column_2\n{lines[0][:-2]}",
        f"column_2,column_1\n{','.join(lines[0].split(',')[1::-1])}",
    ):
        (tmp_path / "new.csv").write_text(f"{text}\n")
        found += [made.by_command(tmp_path / "new.csv")[0], made.by_script(tmp_path / "new.csv")[0]]
    assert all(result["prediction"] == found[0]["prediction"] for result in found)
    assert all(len(result["prediction"]) == 1 for result in found)
    (tmp_path / "new.csv").write_text("1.5,2.5\n")
    expected = "the file has 2 columns and no header; give all 3 columns in the order of the training file"
    assert expected in made.refusal(tmp_path / "new.csv")
    assert expected in made.run_script(tmp_path / "new.csv", ("pyarrow",))[2]


def test_spellings_that_training_merged_are_one_value_in_new_rows(tmp_path: Path) -> None:
    lines = [
        f"{('Rome', 'rome', 'ROME', 'Os-lo', 'os lo')[row % 5]},{('yes', 'Y', 'n', 'No')[row % 4]},{row % 9},"
        f"{('TRUE', 'no', 'T', 'False')[row * 7 % 4]}"
        for row in range(ROWS)
    ]
    content = "\n".join(["city,ok,x,y", *lines]).encode()
    made = uploaded(tmp_path, "a.csv", content, MLP, target="y", columns={"city": "merged_category"})
    found = []
    for city, ok in (("rome", "yes"), ("RoMe", "1"), ("Rome", "TRUE")):
        (tmp_path / "new.csv").write_text(f"city,ok,x\n{city},{ok},3\nOslo,no,4\n")
        for result, notes in (made.by_command(tmp_path / "new.csv"), made.by_script(tmp_path / "new.csv")):
            assert "column 'city': 1 of 2 cells are values that training did not have" in notes
            found.append({name: cells[0] for name, cells in result.items()})
    assert [list(result) for result in found] == [["prediction", "probability_false", "probability_true"]] * 6
    assert all(
        numbers(list(result.values())[1:]) == pytest.approx(numbers(list(found[0].values())[1:])) for result in found
    )


def test_a_bundle_without_weights_says_why(of_people: Kept, tmp_path: Path) -> None:
    manifest = json.loads((of_people.folder / "manifest.json").read_text())
    for names, reason in (
        (["weights.safetensors", "preprocessing.json", "predict.py"], "the bundle has no trained model: the job is on"),
        (["preprocessing.json", "predict.py"], "the model was trained on a text or an equation"),
    ):
        sums = {name: digest for name, digest in manifest["files"].items() if name not in names}
        changed = replace(of_people, zip=tmp_path / "changed.zip")
        with zipfile.ZipFile(changed.zip, "w") as archive:
            archive.writestr("manifest.json", json.dumps({**manifest, "files": sums}))
            for name in sums:
                archive.write(of_people.folder / name, name)
        assert changed.refusal(tmp_path / "new.csv").startswith(f"error: {reason}")


def test_a_bundle_that_does_not_describe_its_model_is_refused(of_people: Kept, tmp_path: Path) -> None:
    changed = replace(of_people, zip=tmp_path / "changed.zip")
    manifest = json.loads((of_people.folder / "manifest.json").read_text())
    for run, reason in (
        ({"model": None}, "cannot be built here: KeyError: 'shape'"),
        ({**manifest["run"], "model": {"name": "convnet"}, "shape": []}, "cannot be built here: IndexError"),
        ({**manifest["run"], "sizes": [2, 3]}, "cannot be built here: RuntimeError: Error(s) in loading state_dict"),
    ):
        with zipfile.ZipFile(changed.zip, "w") as archive:
            archive.writestr("manifest.json", json.dumps({**manifest, "run": run}))
            for name in manifest["files"]:
                archive.write(of_people.folder / name, name)
        assert reason in changed.refusal(tmp_path / "new.csv")


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_real_job_keeps_the_model_that_it_recommends(
    settings: Settings, make_worker: WorkerMaker, spec: SpecMaker, tmp_path: Path
) -> None:
    with TestClient(create_app(settings)) as api:
        content = written(HEADER, people(), ";").encode()
        dataset = api.post("/v1/datasets", params={"filename": "people.csv"}, content=content).json()["id"]
        links = api.post("/v1/jobs", json=spec(dataset={"id": dataset, "target": "answer"})).json()["links"]
        assert make_worker().run_next()
        result = api.get(links["recommendation"]).json()
        file = tmp_path / "job.zip"
        file.write_bytes(api.get(links["export"], params={"format": "zip"}).content)
    first = result["pairs"][0]
    loss = first["warpadam_test_loss" if result["arm"] == "warpadam" else "baseline_test_loss"]
    assert result["weights"]["seed"] == first["seed"]
    assert result["weights"]["test_loss"] == loss
    made = Kept.of(file, loss)
    x, y = made.prepared
    probabilities = softmax(made.outputs())
    assert -np.log(probabilities[np.arange(len(x)), y]).mean() == pytest.approx(loss, abs=1e-6)
    kept_files = {path.name for path in (tmp_path / "artifacts" / "jobs" / result["job_id"]).iterdir()}
    trials = {arm["arm"]: arm["trial"] for arm in result["finalists"]}
    weights = {name for name in kept_files if name.startswith("weights-")}
    assert weights == {weights_file(trials[arm]) for arm in ("warpadam", "adamw")}
    with TestClient(create_app(settings)) as api:
        assert api.post(f"{links['self']}/extend", json={"seeds": 1}).status_code == 202
        assert make_worker().run_next()
        extended = api.get(links["recommendation"]).json()
        assert len(extended["pairs"]) == len(result["pairs"]) + 1
        assert extended["weights"]["seed"] == first["seed"]
        assert extended["trial"] != result["trial"] or extended["weights"] == result["weights"]
        assert api.delete(links["self"]).status_code == 204
    assert not (tmp_path / "artifacts" / "jobs" / result["job_id"]).exists()
