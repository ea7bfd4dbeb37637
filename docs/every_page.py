"""Photographs every page of the service with real jobs, on a phone and on a desk, light and dark.

    python docs/every_page.py FOLDER [PAGE ...]

The first time it runs the jobs, for about five minutes, and keeps them in FOLDER. After that it takes the pictures
again within a minute or two: run it after each change of a template, and look. It needs chromium. With names of pages
it only takes those.
"""

from __future__ import annotations

import io
import json
import random
import runpy
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, Page, sync_playwright

from service.client.private import private_service
from service.client.quick_spec import make_spec
from service.client.rest import Client

EXAMPLES: Final = Path(__file__).parent.parent / "examples"

SIZES: Final = {"phone": (390, 844), "desk": (1280, 800)}

SCHEMES: Final = ("light", "dark")

FRAGILE: Final = '''
"""A model that breaks when its outputs grow, as when a learning rate is too high, or always, after some batches."""
from torch import nn

class Fragile(nn.Sequential):
    def __init__(self, *layers, limit, batches):
        super().__init__(*layers)
        self.limit, self.left = limit, batches

    def forward(self, x):
        outputs = super().forward(x)
        self.left -= 1
        if outputs.abs().max() > self.limit:
            raise ValueError(f"an output is above {self.limit}")
        if not self.left:
            raise RuntimeError("the gate has 64 features, expected 32")
        return outputs

def make_model(shape, outputs, task, *, limit, batches=0):
    layers = nn.Linear(*shape, 16), nn.ReLU(), nn.Linear(16, outputs)
    return Fragile(*layers, limit=limit, batches=batches)
'''

SMALL: Final[dict[str, Any]] = {"trials_per_arm": 12, "steps": 200}
"""A budget with which a job takes seconds."""

ENDLESS: Final[dict[str, Any]] = {"trials_per_arm": 10_000, "steps": 2_000}
"""A budget with which a job still runs when the pictures are taken."""


def _files(folder: Path) -> None:
    """Write what the jobs are about: a table, one with something to correct, images, and the code of a model."""
    subprocess.run([sys.executable, EXAMPLES / "make_churn.py"], cwd=folder, check=True)
    (folder / "fragile.py").write_text(FRAGILE)
    draw = random.Random(0)  # noqa: S311
    lines = ["Unnamed: 0,zip,delivered,weight,amount_paid,price"]
    for row in range(300):
        weight = round(draw.lognormvariate(1, 0.5), 2)
        price = round(4 + 2.5 * weight + draw.gauss(0, 0.5), 2)
        paid = "" if row % 3 else price
        lines.append(f"{row},0{draw.randrange(1000, 9999)},2026-0{row % 9 + 1}-11,{weight},{paid},{price}")
    (folder / "parcels-of-the-warehouse-in-the-north-2026.csv").write_text("\n".join(lines))
    with zipfile.ZipFile(folder / "digits.zip", "w") as archive:
        from PIL import Image
        from sklearn.datasets import load_digits

        bunch = load_digits(n_class=3)
        for index, (image, label) in enumerate(zip(bunch.images[:60], bunch.target[:60], strict=True)):
            png = io.BytesIO()
            Image.fromarray((image * 15).astype("uint8")).save(png, "png")
            archive.writestr(f"digits/{label}/{index}.png", png.getvalue())


def _run_jobs(client: Client, folder: Path) -> dict[str, str]:
    """Upload the files and run the jobs; return what is where."""
    found = {}
    for name in ("churn", "parcels-of-the-warehouse-in-the-north-2026"):
        found[name.partition("-")[0]] = client.upload(folder / f"{name}.csv")[0]["id"]
    found["digits"] = client.upload(folder / "digits.zip")[0]["id"]
    churn = make_spec(
        client.dataset(found["churn"]),
        "churn.csv",
        {"target": "churned"},
        objective={"metric": "val_accuracy"},
        budget={"trials_per_arm": 20, "steps": 400},
        tags=["churn"],
        seed=0,
    )
    fragile = {"dataset": {"name": "wine"}, "budget": {"trials_per_arm": 24, "steps": 100}, "tags": ["own-model"]}
    model = {"name": "entrypoint", "entrypoint": "fragile:make_model"}
    weak = {"preset": "quick", "overrides": {"lr": 1e-5}}
    specs = {
        "helps": {**runpy.run_path(str(EXAMPLES / "demo.py"))["SPEC"], "tags": ["images"]},
        "inconclusive": churn,
        "hurts": {
            "name": "wine, WarpAdam held back",
            "dataset": {"name": "wine"},
            "model": {"name": "mlp"},
            "budget": SMALL,
            "search_space": weak,
            "tags": ["wine"],
        },
        "three-arms": {
            "name": "diabetes",
            "dataset": {"name": "diabetes"},
            "model": {"name": "mlp"},
            "budget": SMALL,
            "baselines": ["adamw", "sgd", "muon"],
            "controls": ["random_p"],
        },
        "failed-trials": {**fragile, "name": "own model", "model": {**model, "config": {"limit": 30}}},
        "failed": {**fragile, "name": "own model, broken", "model": {**model, "config": {"limit": 1e9, "batches": 50}}},
    }
    for name, spec in specs.items():
        found[name] = client.submit(spec)["id"]
        sys.stderr.write(f"{name}: {client.wait(found[name])['state']}\n")
    endless = {"dataset": {"name": "digits"}, "model": {"name": "mlp"}, "budget": ENDLESS, "resources": {"slots": 1}}
    for name in ("cancelled", "paused", "running", "queued"):
        found[name] = client.submit({**endless, "name": f"digits, {name}"})["id"]
        if name in ("cancelled", "paused"):
            while sum(arm["trials"].get("complete", 0) for arm in client.job(found[name])["arms"]) < 6:
                time.sleep(0.5)
            (client.cancel if name == "cancelled" else client.pause)(found[name])
            while client.job(found[name])["state"] == "running":
                time.sleep(0.5)
    while not client.job(found["running"])["arms"][0]["best"]:
        time.sleep(0.5)
    return found


def _pages(found: dict[str, str], reports: Path) -> dict[str, str]:
    """Return the address of each page of the service with jobs."""
    jobs = ("helps", "inconclusive", "hurts", "three-arms", "failed-trials", "failed", "cancelled", "paused")
    return {
        "home": "/",
        "home-filtered": "/?state=succeeded&tag=churn",
        "home-no-match": "/?state=succeeded&tag=none",
        "new-table": f"/new?id={found['churn']}",
        "new-warnings": f"/new?id={found['parcels']}",
        "new-images": f"/new?id={found['digits']}",
        "new-example": "/new?name=wine",
        **{f"job-{name}": f"/jobs/{found[name]}" for name in (*jobs, "running", "queued")},
        "compare": "/compare?" + "&".join(f"ids={found[name]}" for name in ("helps", "inconclusive", "hurts")),
        "compare-same": f"/compare?ids={found['hurts']}&ids={found['failed-trials']}",
        "error-404": "/jobs/job-of-another-time",
        "error-422": "/?state=bogus",
        "error-address": "/no/such/page",
        "sign-in-not-needed": "/sign-in",
        "docs": "/docs",
        "dashboard": "/dashboard",
        **{f"report-{name}": (reports / f"{name}.html").as_uri() for name in ("helps", "inconclusive", "hurts")},
    }


def _photograph(browser: Browser, name: str, show: Callable[[Page], object], images: Path) -> None:
    """Take the four pictures of a page, and say what is wider than the window."""
    for size, (width, height) in SIZES.items():
        for scheme in SCHEMES:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            show(page)
            page.wait_for_timeout(300)
            if (wide := page.evaluate("document.documentElement.scrollWidth")) > width:
                sys.stderr.write(f"{name}: {wide} px wide on the {size}\n")
            page.screenshot(path=images / f"{name}-{size}-{scheme}.png", full_page=True)
            page.close()


@contextmanager
def _service(folder: Path) -> Iterator[Client]:
    settings = {
        "WARPTUNE_DATABASE_URL": f"sqlite:///{folder}/warptune.db",
        "WARPTUNE_ARTIFACTS_URL": f"{folder}/artifacts",
        "WARPTUNE_CODE": str(folder),
        "WARPTUNE_ALLOWED_MODULES": "fragile",
    }
    with private_service(settings) as client:
        yield client


def _show(address: str) -> Callable[[Page], object]:
    return lambda page: page.goto(address)


def _choose(url: str, target: str) -> Callable[[Page], object]:
    def show(page: Page) -> None:
        page.goto(url)
        page.get_by_label("Column to predict").select_option(target)
        page.locator("#estimate", has_text="about").wait_for(timeout=60_000)

    return show


def main(arguments: Sequence[str]) -> None:
    """Run the jobs if they have not run yet, and take the pictures."""
    if not arguments:
        sys.exit(__doc__)
    folder, names = Path(arguments[0]).resolve(), set(arguments[1:])
    images, notes, empty, closed = (folder / name for name in ("images", "found.json", "empty", "closed"))
    for made in (images, empty, closed):
        made.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])

        def take(name: str, show: Callable[[Page], object]) -> None:
            if not names or name in names:
                _photograph(browser, name, show, images)

        if not names or "home-empty" in names:
            with _service(empty) as client:
                take("home-empty", _show(client.url))
        with _service(folder) as client:
            if not notes.exists():
                _files(folder)
                notes.write_text(json.dumps(_run_jobs(client, folder)))
            found: dict[str, str] = json.loads(notes.read_text())
            for name in ("helps", "inconclusive", "hurts"):
                (folder / f"{name}.html").write_bytes(client.report(found[name]))
            for name, address in _pages(found, folder).items():
                take(name, _show(client.url + address if address.startswith("/") else address))
            take("new-chosen", _choose(f"{client.url}/new?id={found['churn']}", "churned"))
            _photograph_signing_in(closed, take)
        browser.close()


def _photograph_signing_in(folder: Path, take: Callable[[str, Callable[[Page], object]], None]) -> None:
    """Show how one signs in to a service that has keys."""
    from service.db.session import Database, create_schema
    from service.ledger import keys

    with _service(folder) as client:
        url = f"sqlite:///{folder}/warptune.db"
        create_schema(url)
        db = Database(url)
        key, _ = keys.create(db, "churn-team", keys.Scope.SUBMIT)
        db.close()

        def sign_in(page: Page, sent: str, path: str) -> None:
            page.goto(client.url + path)
            page.get_by_label("API key", exact=True).fill(sent)
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_load_state()

        take("sign-in", _show(client.url))
        take("sign-in-wrong", lambda page: sign_in(page, "wt_wrong", "/"))
        take("signed-in", lambda page: sign_in(page, key, "/sign-in?next=/sign-in"))
        take("error-403", lambda page: sign_in(page, key, "/dashboard"))


if __name__ == "__main__":
    main(sys.argv[1:])
