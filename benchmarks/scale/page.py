"""Measure the page of a job with 10,000 trials in Chromium, while the job runs. Nothing is trained.

Run::

    python -m benchmarks.scale.page [--trials 10000]

An arm of a job gets its trials at once. Then Chromium opens the page of the job. It prints and saves:

- ``load``: of some visits, the median and the most of the milliseconds until the page has arrived, until its largest
  part is drawn, and until everything is loaded; and the kilobytes sent.
- ``live``: a second arm searches for some seconds, with the service's own search and ledger, while the page stays open
  and follows the events. ``trials_per_s`` ended meanwhile, and the page was drawn again ``refreshes`` times.
  ``long_tasks_ms`` are the times in which the page could not answer its reader, as far as they are above 50 ms.
- ``live_on_a_slow_machine``: the same with a browser whose processor is four times slower, such as a phone's.

Results go to ``benchmarks/scale/results/page.json`` unless you pass ``--output``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import optuna
from playwright.sync_api import Browser, sync_playwright

from benchmarks.scale.measures import Bench, api, make_spec, save

VISITS = 7
LIVE_S = 20.0
SLOWDOWN = 4

WATCH = """
window.longTasks = []; window.refreshes = 0; window.largest = 0;
new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((task) => task.duration)))
    .observe({ type: "longtask", buffered: true });
new PerformanceObserver((list) => { largest = list.getEntries().at(-1).startTime; })
    .observe({ type: "largest-contentful-paint", buffered: true });
addEventListener("DOMContentLoaded", () => {
    new MutationObserver((changes) => {
        refreshes += changes.some((change) => [...change.addedNodes].some((node) => node.nodeName === "MAIN"));
    }).observe(document.body, { childList: true });
});
"""

LOADED = """() => {
    const [page] = performance.getEntriesByType("navigation");
    const { responseEnd, loadEventEnd, transferSize } = page;
    return { arrived: responseEnd, drawn: largest, loaded: loadEventEnd, kilobytes: transferSize / 1000 };
}"""


def load(browser: Browser, url: str) -> dict[str, dict[str, float]]:
    """Visit a page some times, each time as a new reader, and return how long it takes."""
    visits = []
    for _ in range(VISITS):
        page = browser.new_page()
        page.add_init_script(WATCH)
        visited = page.goto(url)
        assert visited is not None
        assert visited.ok, visited.status_text
        page.wait_for_timeout(500)
        visits.append(page.evaluate(LOADED))
        page.close()
    return {
        name: {"median": round(statistics.median(found), 1), "max": round(max(found), 1)}
        for name in visits[0]
        for found in [[visit[name] for visit in visits]]
    }


def live(browser: Browser, url: str, bench: Bench, slots: int, arm: str, slowdown: int = 1) -> dict[str, Any]:
    """Keep a page open while an arm of its job searches, and return how busy the page was."""
    ended = threading.Event()
    found: dict[str, Any] = {}
    search = threading.Thread(target=lambda: found.update(bench.search(slots, arm, ended.is_set)))
    page = browser.new_page()
    page.add_init_script(WATCH)
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": slowdown})
    page.goto(url)
    search.start()
    began = time.monotonic()
    page.wait_for_timeout(1000 * LIVE_S)
    seconds = time.monotonic() - began
    tasks: list[float] = page.evaluate("longTasks")
    refreshes: int = page.evaluate("refreshes")
    ended.set()
    search.join()
    page.close()
    return {
        "seconds": round(seconds, 1),
        "trials_per_s": found["trials_per_s"],
        "refreshes": refreshes,
        "long_tasks_ms": [round(task) for task in tasks],
    }


def measure(trials: int, slots: int) -> dict[str, Any]:
    """Make a job with many trials and return what its page takes."""
    with tempfile.TemporaryDirectory(prefix="warptune-page-") as folder, sync_playwright() as playwright:
        bench = Bench(f"sqlite:///{folder}/page.db", folder, make_spec(trials, "random", "asha", ["adamw", "sgd"]))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            bench.fill(trials)
            with api(bench.url) as client:
                url = f"{client.base_url}/jobs/{bench.job_id}"
                return {
                    "trials": trials,
                    "load": load(browser, url),
                    "live": live(browser, url, bench, slots, "adamw"),
                    "live_on_a_slow_machine": live(browser, url, bench, slots, "sgd", slowdown=SLOWDOWN),
                    "chromium": browser.version,
                }
        finally:
            browser.close()
            bench.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale.page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", type=int, default=10_000, help="trials of the arm (default: %(default)s)")
    parser.add_argument(
        "--slots", type=int, default=8, help="trials of the second arm that run at once (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "page.json", help="file for the results"
    )
    return parser.parse_args()


def main() -> None:
    """Measure the page, print the figures and save them."""
    chosen = _arguments()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    result = measure(chosen.trials, chosen.slots)
    print(json.dumps(result, indent=2))
    save(chosen.output, ("fastapi", "sqlalchemy", "jinja2"), result)


if __name__ == "__main__":
    main()
