# The command line against a real service: what a person sees, on which stream, with which exit status; never a
# traceback.
from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from service.cli import app as cli
from service.cli.console import out
from service.cli.spec_file import read_spec
from service.ledger import jobs, queries
from service.ledger.runs import RunLog, claim
from service.spec.job import JobSpec
from service.states import JobState, TrialState
from service.training.run import Ended
from tests.conftest import SpecMaker
from tests.service.api.conftest import claim_job, search, succeed
from tests.service.conftest import queue_job
from tests.service.data import files
from tests.service.live import Live
from tests.service.test_takeover import wait_for

Run = Callable[..., Result]


@pytest.fixture
def run(live: Live, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `warptune` against the live service."""
    monkeypatch.setenv("WARPTUNE_URL", live.url)
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: object, url: str | None = None) -> Result:
        with monkeypatch.context() as environment:
            if url is not None:
                environment.setenv("WARPTUNE_URL", url)
            result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


@pytest.fixture
def spec_file(tmp_path: Path, spec: SpecMaker) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec()))
    return path


WorkerThread = Callable[[Callable[[RunLog], None]], None]


@pytest.fixture
def worker_thread(live: Live) -> Iterator[WorkerThread]:
    """Takes the next job in a thread and does with it what a test wants."""
    threads: list[threading.Thread] = []

    def start(work: Callable[[RunLog], None]) -> None:
        def take() -> None:
            lease = None
            while lease is None:
                lease = claim(live.db, "a thread", 60)
                time.sleep(0.02)
            work(lease)

        threads.append(threading.Thread(target=take))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()


STARTING = "starting: reads the data and times a few steps\n"
"""What tune and init say first."""


def fails(result: Result, code: int, message: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    said = result.stderr.removeprefix(STARTING)
    assert said.startswith("error: ")
    assert message in said
    assert "Traceback" not in result.stderr


def test_submit_prints_the_id_and_nothing_else(run: Run, live: Live, spec_file: Path) -> None:
    result = run("submit", spec_file)
    assert result.exit_code == 0
    assert result.stderr == ""
    with live.db.read() as session:
        assert jobs.require_job(session, result.stdout.strip()).state == "queued"
    jobs.cancel(live.db, result.stdout.strip())


def test_a_dry_run_tells_the_plan_and_queues_nothing(run: Run, live: Live, spec_file: Path) -> None:
    with live.db.read() as session:
        before = [job.id for job in queries.jobs_page(session, 10, None)]
    result = run("submit", spec_file, "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "warpadam" in result.stdout
    assert "more runs, about" in result.stdout
    with live.db.read() as session:
        assert [job.id for job in queries.jobs_page(session, 10, None)] == before


def test_extend_adds_to_a_job_that_has_succeeded_and_refuses_nothing_to_add(run: Run, live: Live) -> None:
    job = succeeded_job(live)
    assert run("extend", job).exit_code == 1
    result = run("extend", job, "--seeds", 2)
    assert (result.exit_code, result.stdout.strip()) == (0, job)
    with live.db.read() as session:
        assert jobs.require_job(session, job).state == JobState.QUEUED
    jobs.cancel(live.db, job)  # or the next test's worker would take it


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_seconds_that_are_no_number_are_refused(run: Run, value: str) -> None:
    fails(run("extend", "job-0", "--max-seconds", value), 1, f"max_seconds: must be a finite number (got {value})")


def test_a_number_that_no_float_holds_is_refused_by_the_service(run: Run) -> None:
    fails(run("extend", "job-0", "--trials", "1" + 400 * "0"), 1, "trials: must be")


@pytest.mark.parametrize("when", ["import", "run"])
def test_ctrl_c_is_no_traceback(when: str) -> None:
    code = f"""
import importlib, sys
from service import __main__
def interrupt(*_, **__):
    raise KeyboardInterrupt
if {when!r} == "import":
    sys.meta_path.insert(0, type("Finder", (), {{"find_spec": interrupt}}))
else:
    from service.cli import app as cli
    cli.app = interrupt
__main__.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


def command(*arguments: str | bytes, stdout: Any = subprocess.PIPE, **environment: str) -> tuple[int, str, str]:
    """Run `warptune` in a process of its own; return its exit status and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        timeout=60,
    )
    return done.returncode, (done.stdout or b"").decode(), done.stderr.decode()


PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A locale that knows ASCII only."""


@pytest.mark.parametrize(
    ("arguments", "locale"),
    [
        (("show", "größe"), PLAIN),
        (("jobs", "--tag", b"\xff"), {}),
        (("tune", "rows.csv", "--dry-run", "--target", b"\xff"), {}),
    ],
    ids=["show", "jobs", "tune"],
)
def test_an_argument_that_is_not_text_is_one_line(
    live: Live,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str | bytes, ...],
    locale: dict[str, str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_bytes(files.csv())
    code, printed, said = command(*arguments, WARPTUNE_URL=live.url, **locale)
    assert (code, printed) == (1, "")
    starting = STARTING if arguments[0] == "tune" else ""
    assert re.fullmatch(rf"{starting}error: '.*\\udc.*' cannot be sent or stored: .*; .* LC_ALL=C.UTF-8\n", said)


@pytest.mark.parametrize(("name", "known_as"), [("größe.csv".encode(), "größe.csv"), (b"caf\xe9.csv", "caf\ufffd.csv")])
def test_a_file_may_have_any_name_in_any_locale(
    live: Live, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes, known_as: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(os.fsdecode(name)).write_bytes(files.csv(40 + len(name)))
    code, _, said = command("init", name, "--target", "label", "-o", name + b".yaml", WARPTUNE_URL=live.url, **PLAIN)
    assert (code, said) == (0, STARTING)
    assert known_as in run("datasets").stdout
    assert read_spec(Path(os.fsdecode(name + b".yaml")))["name"] == known_as
    code, printed, said = command("datasets", WARPTUNE_URL=live.url, **PLAIN)
    assert (code, said) == (0, "")
    assert known_as.encode("ascii", "backslashreplace").decode() in printed


def test_json_is_json_whatever_the_encoding_of_the_output(live: Live, spec: SpecMaker) -> None:
    job = queue_job(live.db, JobSpec.model_validate(spec(name="größe")))
    code, printed, _ = command("show", job, "--json", WARPTUNE_URL=live.url, PYTHONIOENCODING="ascii")
    jobs.cancel(live.db, job)
    assert (code, json.loads(printed)["name"]) == (0, "größe")


@pytest.mark.parametrize("arguments", [("catalog",), ("catalog", "--json"), ("--help",), ("trials",), ("export",)])
def test_an_output_that_is_full_is_one_line(live: Live, succeeded: str, arguments: tuple[str, ...]) -> None:
    more = {"trials": (succeeded, "--csv"), "export": (succeeded,)}.get(arguments[0], ())
    with open("/dev/full", "wb") as full:
        code, _, said = command(*arguments, *more, stdout=full, WARPTUNE_URL=live.url)
    assert (code, said) == (1, "error: No space left on device\n")


def test_a_name_that_is_too_long_is_one_line(run: Run, succeeded: str, tmp_path: Path) -> None:
    longest = tmp_path / (251 * "x" + ".txt")
    assert run("export", succeeded, "-o", longest).exit_code == 0
    assert [file.name for file in tmp_path.iterdir()] == [longest.name]
    fails(run("export", succeeded, "-o", tmp_path / (256 * "x")), 2, "File name too long")
    code, _, said = command("predict", str(tmp_path / (256 * "x")), "rows.csv")
    assert (code, said) == (2, f"error: cannot read {tmp_path / (256 * 'x')}: File name too long\n")
    code, _, said = command("submit", str(tmp_path / (256 * "x")))
    assert (code, said) == (1, f"error: {tmp_path / (256 * 'x')}: File name too long\n")


def test_cancel_stops_a_job(run: Run, spec_file: Path) -> None:
    job = run("submit", spec_file).stdout.strip()
    assert run("cancel", job).stdout.strip() == f"{job} cancelled"
    assert run("cancel", job).stdout.strip() == f"{job} cancelled"


def test_tune_names_the_job_that_it_may_wait_for(
    run: Run, spec_file: Path, worker_thread: WorkerThread, tmp_path: Path
) -> None:
    earlier, own_has_ended = run("submit", spec_file).stdout.strip(), threading.Event()

    def work(log: RunLog) -> None:
        if log.job_id == earlier:
            own_has_ended.wait(60)
        log.end(JobState.FAILED, "of the test")
        own_has_ended.set()

    for _ in range(2):
        worker_thread(work)
    (tmp_path / "people.csv").write_bytes(files.csv(60))
    done = run("tune", tmp_path / "people.csv", "--target", "label", "--trials", 1, "--steps", 5)
    assert "the job failed: of the test" in done.stderr
    assert re.search(rf"! the earlier job .* may run first. To end it: warptune cancel {earlier}\n", done.stdout)


def test_retry_goes_on_with_a_cancelled_job(run: Run, spec_file: Path, worker_thread: WorkerThread) -> None:
    job = run("submit", spec_file).stdout.strip()
    run("cancel", job)
    assert run("retry", job).stdout.strip() == f"{job} queued"
    run("cancel", job)
    worker_thread(succeed)
    watched = run("retry", job, "--watch")
    assert watched.exit_code == 0
    assert watched.stdout.startswith(f"job {job}")
    assert "only a job that has failed or was cancelled can be retried" in run("retry", job).stderr


def test_a_job_is_paused_resumed_and_stopped(run: Run, spec_file: Path, worker_thread: WorkerThread) -> None:
    job = run("submit", spec_file).stdout.strip()
    assert run("pause", job).stdout.strip() == f"{job} paused"
    assert run("show", job).stdout.splitlines()[0].split()[1:] == [job, "paused"]
    assert run("resume", job).stdout.strip() == f"{job} queued"
    assert run("show", job).stdout.splitlines()[0].endswith("queued, number 1 in the queue")
    assert run("jobs", "--limit", 1).stdout.strip().endswith("number 1 in the queue")
    assert run("stop", job).stdout.strip() == f"{job} queued, the search ends early"
    run("cancel", job)
    job = run("submit", spec_file).stdout.strip()

    def succeed_once_stopped(lease: RunLog) -> None:
        wait_for(lambda: lease.requests().stop)
        succeed(lease)

    worker_thread(succeed_once_stopped)
    watched = run("stop", job, "--watch")
    assert watched.exit_code == 0, watched.output
    assert watched.stdout.startswith(f"job {job}")
    for verb, done in (("stop", "stopped"), ("pause", "paused")):
        assert f"only a job that has not ended can be {done}" in run(verb, job).stderr
    assert "only a paused job can be resumed" in run("resume", job).stderr


def test_the_version_is_that_of_the_distribution(run: Run) -> None:
    assert run("--version").stdout == f"warptune {version('warptune')}\n"


def test_jobs_are_listed_the_newest_first_and_by_state(run: Run, spec_file: Path) -> None:
    older, newer = (run("submit", spec_file).stdout.strip() for _ in range(2))
    run("cancel", newer)
    both = run("jobs", "--limit", 2)
    assert both.exit_code == 0
    assert [line.split()[:2] for line in both.stdout.splitlines()] == [[newer, "cancelled"], [older, "queued"]]
    assert [line.split()[0] for line in run("jobs", "--state", "queued").stdout.splitlines()] == [older]
    assert run("jobs", "--state", "asleep").exit_code == 2
    run("cancel", older)


def test_a_job_can_be_deleted_unless_it_runs(run: Run, live: Live, spec_file: Path) -> None:
    job = run("submit", spec_file).stdout.strip()
    log = claim_job(live.db)
    fails(run("delete", job, "--yes"), 1, "cancel it")
    search(log)
    succeed(log)
    asked = run("delete", job)  # nobody answers
    assert asked.exit_code == 1
    assert re.search(rf"Delete {job} \(.+\) with its trials and files\?", asked.stderr), asked.stderr
    assert run("delete", job, "--yes").stdout.strip() == f"{job} deleted"
    fails(run("show", job), 1, f"there is no job '{job}'")


def test_a_job_is_found_by_its_name_and_as_the_latest(run: Run, tmp_path: Path, spec: SpecMaker) -> None:
    path = tmp_path / "spec.yaml"
    ids = []
    for name in ("only one", "twice", "twice"):
        path.write_text(yaml.safe_dump(spec(name=name)))
        ids.append(run("submit", path).stdout.strip())
    assert json.loads(run("show", "only one", "--json").stdout)["id"] == ids[0]
    assert json.loads(run("show", "@latest", "--json").stdout)["id"] == ids[2]
    fails(run("show", "twice"), 1, f"2 jobs have the name 'twice': {ids[2]}, {ids[1]}; give the id of one")
    fails(run("cancel", "@newest"), 1, "there is no job with the id or name '@newest'; see warptune jobs")
    assert [job["id"] for job in json.loads(run("jobs", "--json", "--limit", 3).stdout)] == ids[::-1]
    for job in ids:
        run("cancel", job)


def test_trials_are_listed_for_people_and_for_tables(run: Run, live: Live, spec_file: Path) -> None:
    job = run("submit", spec_file).stdout.strip()
    succeed(claim_job(live.db))
    shown = run("trials", job).stdout
    header, *rows = csv.reader(run("trials", job, "--csv").stdout.splitlines())
    assert header[:4] == ["number", "arm", "state", "value"]
    assert [row[0] for row in rows] == ["0", "1", "2", "3", "4"]
    assert all(row[1] in shown for row in rows)
    found = json.loads(run("trials", job, "--json").stdout)
    assert [str(trial["params"].get("lr")) for trial in found] == [row[header.index("lr")] or "None" for row in rows]
    assert json.loads(run("show", job, "--json").stdout)["recommendation"]["verdict"] == "helps"
    assert run("open", job).stdout.strip() == f"{live.url}/jobs/{job}"
    assert "Yes, P helps" in run("watch", job).stdout


def test_json_is_read_too(run: Run, live: Live, tmp_path: Path, spec: SpecMaker) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec(name="\U0001f680", confirm={"min_effect": 1e-5}), indent="\t"))
    assert '"\\ud83d\\ude80"' in path.read_text()
    job_id = run("submit", path).stdout.strip()
    with live.db.read() as session:
        job = jobs.require_job(session, job_id)
    assert (job.name, JobSpec.from_json(job.spec).confirm.min_effect) == ("\U0001f680", 1e-5)
    jobs.cancel(live.db, job_id)


def test_refused_spec_names_every_field(run: Run, tmp_path: Path, spec: SpecMaker) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec(name="[/x]" * 30, model={"name": "mpl"})))
    result = run("submit", path)
    fails(result, 1, "the service refused the request")
    first, *lines = result.stderr.splitlines()
    assert first == "error: the service refused the request"
    assert lines[0].startswith("  name: must have at most 100 characters (got '[/x][/x]")
    assert lines[1].startswith("  model.name: must be one of mlp, ")
    assert lines[1].endswith(" (got 'mpl'). Did you mean 'mlp'?")
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("[1", "is neither YAML nor JSON"),
        ('{"name": "x"', "is neither YAML nor JSON"),
        ("- 1", "holds a list, but must hold the fields of a job"),
        ("", "holds nothing, but must hold the fields of a job"),
        ("just text", "holds a single value, but must hold the fields of a job"),
        ("seed: .nan", "holds a value that JSON does not have"),
    ],
)
def test_file_that_is_no_spec_is_refused(run: Run, tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "[bold]spec.yaml"
    if content is not None:
        path.write_text(content)
    result = run("submit", path)
    fails(result, 2, message)
    assert "[bold]spec.yaml" in result.stderr


@pytest.mark.parametrize("command", [("submit", "SPEC"), ("show", "job-0"), ("export", "job-0"), ("watch", "job-0")])
@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[/x]"])
def test_service_that_is_not_there_is_one_line(run: Run, spec_file: Path, command: tuple[str, ...], url: str) -> None:
    arguments = [spec_file if argument == "SPEC" else argument for argument in command]
    result = run(*arguments, url=url)
    fails(result, 1, f"cannot reach {url}: ")
    assert "start a service with warptune serve, or name one with --url" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Errno" not in result.stderr


@pytest.mark.parametrize("url", ["nonsense", "localhost:8000", ""])
def test_what_is_no_url_is_named(run: Run, url: str) -> None:
    fails(
        run("show", "job-0", "--url", url),
        2,
        f"--url (or WARPTUNE_URL) must begin with http:// or https://, not {url!r}",
    )


def test_every_command_takes_h_for_help(run: Run) -> None:
    for command in ((), ("tune",), ("keys",), ("keys", "create")):
        assert run(*command, "-h").stdout == run(*command, "--help").stdout


def test_a_folder_names_the_data_in_it(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for command in (("tune",), ("init", "-o", tmp_path / "spec.yaml"), ("upload",), ("submit",)):
        fails(run(*command, folder), 2, f"{folder} is a folder; there are no data in it")
    for name in ("b.csv", "a.XLSX", "notes.md"):
        (folder / name).write_text("")
    fails(run("tune", folder), 2, f"{folder} is a folder; give a file in it: a.XLSX, b.csv\n")


def test_submit_of_a_table_points_to_tune(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_bytes(files.csv())
    fails(
        run("submit", file), 2, f"people.csv has data, not the spec of a job; tune on it: warptune tune {file} --target"
    )


WRONG_OPTIONS = {
    "a target": (["--target", "lable"], "--target must be one of age, city, note, label (got 'lable'). Did you"),
    "a metric": (["--metric", "auc"], "--metric must be 'val_loss', "),
    "its hint": (["--metric", "auc"], "(got 'auc'). Did you mean 'val_roc_auc'?"),
    "a metric of another task": (["--metric", "val_mae"], "--metric must be one of val_loss, val_accuracy"),
    "a random split": (["--split", "random=city"], "COLUMN, not 'random=city'; rows are split at random"),
    "an unknown split": (["--split", "date=city"], "--split must be one of group=COLUMN, time=COLUMN"),
    "a column to split by": (["--split", "group=town"], "--split must be one of "),
    "no times": (["--split", "time=note"], "Say --column note=date or --column note=day_first_date if it holds dates"),
    "a kind": (["--column", "city=categry"], "--column city must be 'number', "),
    "no such column": (["--column", "ctiy=text"], "--column ctiy must be one of age, city, note, label"),
    "no such kind of values": (["--column", "city=number"], "--column city must be a kind that the values have: 36 of"),
    "a decimal mark": (["--decimal", "x"], "--decimal must be '.' or ',' (got 'x')"),
    "a mark twice": (["--thousands", ".", "--decimal", "."], "--decimal must differ from delimiter and thousands"),
    "an encoding": (["--encoding", "klingon"], "--encoding must be a known encoding (got 'klingon')"),
    "many seeds": (["--seed", str(2**40)], "--seed must be less than or equal to"),
    "many steps": (["--steps", str(10**9)], "--steps must be less than or equal to 1000000"),
    "many trials": (["--trials", str(10**9)], "--trials must be less than or equal to 10000"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_OPTIONS)
@pytest.mark.parametrize("command", [("tune", "--dry-run"), ("init", "--force")])
def test_what_is_wrong_is_said_of_the_option(run: Run, tmp_path: Path, case: str, command: tuple[str, str]) -> None:
    options, message = WRONG_OPTIONS[case]
    file = tmp_path / "people.csv"
    file.write_bytes(files.csv())
    target = [] if "--target" in options else ["--target", "label"]
    output = ["-o", tmp_path / "spec.yaml"] if command[0] == "init" else []
    result = run(*command, file, *target, *options, *output)
    fails(result, 2, message)
    assert "dataset." not in result.stderr
    assert "the service refused" not in result.stderr


def test_notes_name_options_and_the_spec_names_fields(run: Run, tmp_path: Path) -> None:
    file, spec = tmp_path / "people.csv", tmp_path / "spec.yaml"
    rows = [f"2024-01-{row % 28 + 1:02d},{row % 9},{('yes', 'Y', 'no')[row % 3]}" for row in range(28)]
    file.write_text("\n".join(["seen at,customer_id,label", *rows]))
    shown = run("init", file, "--target", "label", "-o", spec).stdout
    assert "say --split 'time=seen at' to test on the newest" in shown
    assert "say --split group=customer_id to keep the rows" in shown
    assert "say --column label=category to keep them apart" in shown
    assert "dataset." not in shown
    written = spec.read_text()
    assert "say {by: time, column: seen at} in dataset.split to test" in written
    assert "say category in dataset.columns to keep them apart" in written


def test_a_table_without_a_header_names_the_option(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "plain.csv"
    file.write_text("\n".join(f"{row * 7 % 31 / 4},{'ab'[row % 2]}" for row in range(60)))
    named = run("tune", file)
    fails(named, 2, "--target must name the column to predict, one of: column_1, column_2")
    shown = run("tune", file, "--target", "column_2", "--dry-run").stdout
    assert "if it has the names, say --header first" in shown
    first = run("tune", file, "--target", "a", "--header", "first", "--dry-run").stdout
    assert first.startswith("plain.csv  59 rows, 1 input, classification")


@pytest.mark.parametrize("command", ["show", "export"])
def test_unknown_job_is_one_line(run: Run, command: str) -> None:
    result = run(command, "job-0")
    fails(result, 1, "there is no job 'job-0'")
    assert result.stderr.count("\n") == 1


def test_show_draws_the_arms_of_a_job(run: Run, live: Live, spec: SpecMaker, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec(name="[/red] :smile: [bold]x")))
    job_id = run("submit", path).stdout.strip()
    log = claim_job(live.db)
    search(log)
    result = run("show", job_id)
    assert result.exit_code == 0
    first, *rest = result.stdout.splitlines()
    assert first == f"[/red] :smile: [bold]x  {job_id}  running"
    (row,) = [line for line in rest if "warpadam" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "warpadam",
        "complete",
        "2 complete",
        "0.5",
        "0",
        "0.4",
    ]
    log.end(JobState.FAILED, "no [/space] left")
    assert "no [/space] left" in run("show", job_id).stdout


def succeeded_job(live: Live) -> str:
    spec = JobSpec.model_validate({"dataset": {"name": "wine"}, "model": {"name": "mlp"}, "confirm": {"seeds": 6}})
    job_id = queue_job(live.db, spec)
    succeed(claim_job(live.db))
    return job_id


@pytest.fixture(scope="module")
def succeeded(live: Live) -> str:
    """Id of a job that has succeeded."""
    return succeeded_job(live)


def test_show_adds_the_recommendation(run: Run, succeeded: str) -> None:
    shown = run("show", succeeded).stdout
    assert "Does P help? warpadam against adamw" in shown
    assert "helps" in shown
    assert "Recommended: warpadam (trial 0)" in shown
    config: dict[str, Any] = json.loads(shown[shown.index("\n{") :])
    assert config["structure"] == "kronecker"


def test_report_is_saved_and_nothing_half_written_is_left(run: Run, succeeded: str, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    saved = run("report", succeeded, "-o", target)
    assert (saved.exit_code, saved.output) == (0, "")
    assert target.read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("form", ["json", "yaml", "python"])
def test_export_goes_to_a_file_or_to_standard_output(run: Run, succeeded: str, tmp_path: Path, form: str) -> None:
    printed = run("export", succeeded, "--format", form)
    assert (printed.exit_code, printed.stderr) == (0, "")
    target = tmp_path / "recommended"
    saved = run("export", succeeded, "-f", form, "-o", target)
    assert (saved.exit_code, saved.output) == (0, "")
    assert target.read_text() == printed.stdout
    if form == "python":
        compile(printed.stdout, "recommended.py", "exec")
    else:
        assert yaml.safe_load(printed.stdout)["job"] == succeeded


def test_export_that_cannot_be_written_is_one_line(run: Run, succeeded: str, tmp_path: Path) -> None:
    fails(run("export", succeeded, "-o", tmp_path / "no" / "file"), 2, "cannot write")
    fails(run("export", succeeded, "-o", tmp_path), 2, "cannot write")
    fails(run("export", succeeded, "-o", ""), 2, "cannot write .: it is a folder")


@pytest.mark.parametrize(
    "command",
    [
        ("tune", "rows.csv"),
        ("tune", "rows.csv", "--save-spec", "no/x.py", "-o", "best.py"),
        ("init", "rows.csv"),
        ("predict", "job.zip", "rows.csv"),
        ("export", "job-0"),
        ("report", "job-0"),
    ],
    ids=" ".join,
)
def test_an_output_that_cannot_be_written_is_noticed_before_the_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *given = command
    output = () if "-o" in given else ("-o", "no/x.py")
    fails(run(name, *given, *output), 2, "cannot write no/x.py: there is no folder no")
    (tmp_path / "no").write_text("a file")
    fails(run(name, *given, *output), 2, "cannot write no/x.py: Not a directory")


def test_export_of_a_running_job_is_refused(run: Run, live: Live, spec_file: Path) -> None:
    job_id = run("submit", spec_file).stdout.strip()
    fails(run("export", job_id), 1, "is queued: its recommendation comes when it has succeeded")
    jobs.cancel(live.db, job_id)


def test_watched_job_ends_with_its_recommendation(
    run: Run, live: Live, spec_file: Path, worker_thread: WorkerThread
) -> None:
    worker_thread(succeed)
    result = run("submit", spec_file, "--watch")
    assert result.exit_code == 0, result.output
    assert f"{live.url}/jobs/job-" in result.stdout
    assert "Recommended: warpadam" in result.stdout


def test_watched_job_that_fails_is_an_error(run: Run, live: Live, spec_file: Path, worker_thread: WorkerThread) -> None:
    worker_thread(lambda log: log.end(JobState.FAILED, "no [/space] left"))
    result = run("submit", spec_file, "--watch")
    assert result.exit_code == 1
    assert "error: the job failed: no [/space] left" in result.stderr


def test_help_lists_the_commands(run: Run) -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in ("serve", "worker", "migrate", "submit", "extend", "cancel", "show", "export"):
        assert command in result.stdout
        assert run(command, "--help").exit_code == 0


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("submit",), ("show",), ("export", "job-0", "-f", "xml")])
def test_wrong_usage_is_status_2(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


DATABASE_URL = (
    "database_url (WARPTUNE_DATABASE_URL): must be a URL such as "
    "sqlite:///warptune.db or postgresql+psycopg://user@host/name"
)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "PORT",
            "abc",
            "port (WARPTUNE_PORT): must be a valid integer, unable to parse string as an integer (got 'abc')",
        ),
        ("PORT", "99999", "port (WARPTUNE_PORT): must be less than or equal to 65535 (got '99999')"),
        ("LEASE_S", "0", "lease_s (WARPTUNE_LEASE_S): must be greater than or equal to 1 (got '0')"),
        (
            "LOG_LEVEL",
            "LOUD",
            "log_level (WARPTUNE_LOG_LEVEL): must be 'DEBUG', 'INFO', 'WARNING' or 'ERROR' (got 'LOUD')",
        ),
        ("DATABASE_URL", "nonsense", f"{DATABASE_URL} (got 'nonsense')"),
        ("DATABASE_URL", "mysql://nobody:w7Qz-x@127.0.0.1/x", f"{DATABASE_URL} (got 'mysql://nobody:***@127.0.0.1/x')"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "worker"])
def test_wrong_setting_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"WARPTUNE_{name}", value)
    fails(run(command), 2, message)


@pytest.mark.parametrize(
    ("command", "database_url"),
    [
        ("serve", "sqlite:////proc/x/y.db"),
        ("worker", "postgresql+psycopg://nobody:w7Qz-x@127.0.0.1:1/x"),
        ("migrate", "postgresql+pg8000://nobody:w7Qz-x@127.0.0.1/x"),  # a driver that is not there
    ],
)
def test_database_that_cannot_be_used_is_one_line(command: str, database_url: str, tmp_path: Path) -> None:
    environment = {"PATH": "", "WARPTUNE_DATABASE_URL": database_url, "WARPTUNE_ARTIFACTS_URL": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-m", "service", command], env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.stderr
    assert "w7Qz-x" not in result.stderr


def test_a_file_is_called_as_it_is_though_another_has_its_content(run: Run, tmp_path: Path) -> None:
    for name in ("first.csv", "second.csv"):
        (tmp_path / name).write_bytes(files.csv(57))
    uploaded = run("upload", tmp_path / "first.csv").stdout
    again = run("upload", tmp_path / "second.csv")
    assert (again.stdout, again.stderr) == (uploaded, "the same file was uploaded before, as first.csv\n")
    arguments = ("--target", "label", "--save-spec", tmp_path / "spec.yaml", "--dry-run")
    told = run("tune", tmp_path / "second.csv", *arguments).stdout
    assert told.startswith("second.csv (uploaded before as first.csv)  57 rows")
    assert read_spec(tmp_path / "spec.yaml")["name"] == "second.csv"
    assert run("tune", tmp_path / "first.csv", *arguments).stdout.startswith("first.csv  57 rows")


def test_upload_prints_the_id_which_datasets_lists(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "numbers.csv"
    path.write_text("a,b\n" + "".join(f"{row},{row % 2}\n" for row in range(20)))
    first, again = run("upload", path), run("upload", path)
    assert (first.exit_code, first.stderr) == (0, "")
    assert again.stdout == first.stdout
    assert again.stderr == "the same file was uploaded before, as numbers.csv\n"
    (line,) = [line for line in run("datasets").stdout.splitlines() if line.startswith(first.stdout.strip())]
    assert line.split()[1:] == ["20", "rows", "csv", "numbers.csv"]


def test_datasets_shows_the_columns_of_one_and_a_dry_run_what_a_job_does_with_them(
    run: Run, tmp_path: Path, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out, "_width", 200)  # which it may have taken from the terminal of pytest
    path = tmp_path / "prices.csv"
    path.write_text("\n".join(["id;price;sold", *(f"{row};{row},50 EUR;{row % 2}" for row in range(40))]))
    dataset = run("upload", path, "--na-value", "7,50 EUR", "--na-value", "none").stdout.strip()
    shown = run("datasets", dataset)
    lines = [" ".join(line.replace("│", " ").split()) for line in shown.stdout.splitlines()]
    assert f"{dataset} 40 rows csv prices.csv" in lines
    assert "id id left out 0 0 40 nearly every row has another value" in lines
    assert "price number feature 2 1 39 decimal ,, EUR" in lines
    assert any("delimiter ';'" in line and "decimal ','" in line for line in lines)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec(dataset={"id": dataset, "target": "sold"})))
    planned = run("submit", tmp_path / "spec.yaml", "--dry-run").stdout
    assert "classification: 2 distinct whole numbers in 40 rows" in planned
    assert "nearly every row has another value" in planned
    fails(run("datasets", "ds-none"), 1, "there is no dataset 'ds-none'")
    run("delete-dataset", dataset)


def test_an_uploaded_dataset_can_be_deleted_once(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "gone.csv"
    path.write_text("a,b\n" + "".join(f"{row},{row % 2}\n" for row in range(40)))
    dataset = run("upload", path).stdout.strip()
    assert run("delete-dataset", dataset).stdout.strip() == f"{dataset} deleted"
    fails(run("delete-dataset", dataset), 1, dataset)
    fails(run("delete-dataset", ".."), 1, "there is no dataset '..'")


def test_upload_of_a_url_has_the_service_read_it(run: Run, live: Live) -> None:
    folder = Path(live.db.engine.url.database or "").parent / "artifacts"
    (folder / "incoming").mkdir(parents=True, exist_ok=True)
    (folder / "incoming/by-url.csv").write_text("c,d\n" + "".join(f"{row},{row % 2}\n" for row in range(20)))
    done = run("upload", f"file://{folder}/incoming/by-url.csv")
    assert (done.exit_code, done.stderr) == (0, "")
    assert any(
        line.startswith(done.stdout.strip()) and "by-url.csv" in line for line in run("datasets").stdout.splitlines()
    )
    fails(run("upload", "file:///etc/passwd.csv"), 1, "WARPTUNE_DATASET_URL_PREFIXES is empty")


def test_upload_of_what_cannot_be_used_says_why(run: Run, tmp_path: Path) -> None:
    fails(run("upload", tmp_path / "missing.csv"), 2, "cannot read")
    (tmp_path / "bad.csv").write_text("a,b\n1\n")
    fails(run("upload", tmp_path / "bad.csv"), 1, "Row #2: Expected 2 columns, got 1")
    (tmp_path / "sheet.xls").write_text("x")
    fails(run("upload", tmp_path / "sheet.xls"), 1, "filename: must end with .csv")


def test_jobs_are_shown_side_by_side(run: Run, live: Live, tmp_path: Path, spec: SpecMaker) -> None:
    path = tmp_path / "spec.yaml"
    for name, steps in (("short one", 10), ("long one", 20)):
        budget = {"trials_per_arm": 2, "steps": steps, "batch_size": 32}
        path.write_text(yaml.safe_dump(spec(name=name, budget=budget, tags=["side"])))
        assert run("submit", path).exit_code == 0
        succeed(claim_job(live.db))
    shown = run("compare", "short one", "long one").stdout
    assert "has the best test loss: " in shown
    assert re.search(r"budget.steps +│ 10 +│ 20 ", shown), shown
    assert json.loads(run("compare", "short one", "@latest", "--json").stdout)["comparable"] is True
    fails(run("compare", "short one"), 1, "ids: must name 2 to 10 different jobs, separated by commas")
    listed = run("jobs", "--tag", "side", "--state", "succeeded").stdout.splitlines()
    assert [line.split("  ")[-2:] for line in listed] == [["long one", "#side"], ["short one", "#side"]]
    assert "There are no failed jobs with the tag side." in run("jobs", "--tag", "side", "--state", "failed").stderr
    fails(run("jobs", "--tag", "two words"), 1, "tag.0: must begin with a letter or a digit")


def test_logs_tell_what_happened_and_why_trials_failed(run: Run, live: Live, spec_file: Path) -> None:
    job = run("submit", spec_file).stdout.strip()
    log = claim_job(live.db)
    trial = log.add_trial("warpadam", {}, running=True)
    cause = "ValueError: no\nFile x.py, line 1, in train"
    log.finish_trial(trial.id, Ended(TrialState.FAILED, cause=cause), 0.1)
    log.end(JobState.FAILED, "no trial completed")
    shown = run("logs", job).stdout
    events, _, failures = shown.partition("trial 0 of warpadam failed: ")
    kinds = [line.split()[2] for line in events.splitlines()]
    assert kinds == ["submitted", "claimed", "trial_finished", "failed"]
    assert "trial 0, arm warpadam, state failed" in events
    assert ", token 1, versions (python " in events
    assert failures == "ValueError: no\n    File x.py, line 1, in train\n"
    found = json.loads(run("logs", job, "--json").stdout)
    assert [event["kind"] for event in found["events"]] == kinds
    assert found["failed_trials"][0]["cause"] == cause


def test_the_catalog_is_that_of_the_service_and_needs_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = run("catalog").stdout
    assert re.search(r"wine +178 rows, 13 features, classification", asked)
    assert all(name in asked for name in ("muon", "val_roc_auc", "whitening", "quick", "mlp"))
    as_json = json.loads(run("catalog", "--json").stdout)
    monkeypatch.delenv("WARPTUNE_URL")
    assert CliRunner().invoke(cli.app, ["catalog"]).stdout == asked
    assert json.loads(CliRunner().invoke(cli.app, ["catalog", "--json"]).stdout) == as_json
