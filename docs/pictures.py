"""Makes the pictures of the documentation from real runs, and saves them in docs/images.

    python docs/pictures.py valley     # the ways of AdamW and WarpAdam through a narrow valley; seconds
    python docs/pictures.py reports    # the reports of two real jobs, and the page of one; four minutes, needs chromium

"valley" is a linear regression with two inputs that say nearly the same. "reports" runs the job of examples/demo.py and
one on the table of examples/make_churn.py, and photographs how their reports begin, and the page of the first.

docs/every_page.py photographs all pages, to look at them.
"""

from __future__ import annotations

import math
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch

from warpadam import WarpAdam

IMAGES: Final = Path(__file__).parent / "images"
EXAMPLES: Final = Path(__file__).parent.parent / "examples"

CORRELATION: Final = 0.98
NOISE: Final = 0.1
ROWS: Final = 2000
BATCH: Final = 32
STEPS: Final = 100
SEEDS: Final = range(5)
RATES: Final = (0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
START: Final = (-0.5, 1.0)
GOAL: Final = (1.0, -1.0)

Point = tuple[float, float]
Make = Callable[[torch.nn.Parameter, float], torch.optim.Optimizer]

OPTIMIZERS: Final[dict[str, tuple[str, Make]]] = {
    "AdamW": ("#d55e00", lambda weights, lr: torch.optim.AdamW([weights], lr=lr, betas=(0.9, 0.95), weight_decay=0.0)),
    "WarpAdam": ("#0072b2", lambda weights, lr: WarpAdam([("weights", weights)], lr=lr, meta_every=1)),
}


def descend(make: Make, lr: float, correlation: float, seed: int) -> tuple[float, list[Point]]:
    """Return how far the loss ends above its minimum, and the weights after each step.

    The learning rate falls to 0 in a straight line.
    """
    draw = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, ROWS, generator=draw, dtype=torch.float64)
    inputs = torch.stack([first, correlation * first + math.sqrt(1 - correlation**2) * second], dim=1)
    noise = torch.randn(ROWS, generator=draw, dtype=torch.float64)
    targets = inputs @ torch.tensor(GOAL, dtype=torch.float64) + NOISE * noise
    curvature = inputs.T @ inputs / ROWS
    best = torch.linalg.solve(curvature, inputs.T @ targets / ROWS)

    draw.manual_seed(seed)
    weights = torch.nn.Parameter(torch.tensor([START], dtype=torch.float64))
    optimizer = make(weights, lr)
    way = [START]
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / STEPS)
        rows = torch.randint(0, ROWS, (BATCH,), generator=draw)
        optimizer.zero_grad()
        loss = 0.5 * ((inputs[rows] @ weights[0] - targets[rows]) ** 2).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        x, y = weights.detach()[0].tolist()
        way.append((x, y))
    left = weights.detach()[0] - best
    return float(0.5 * left @ curvature @ left), way


def tuned(make: Make, correlation: float) -> tuple[float, list[Point]]:
    """Return the lowest median loss over the learning rates, and the way of the first seed at that rate."""
    medians = {lr: statistics.median(descend(make, lr, correlation, seed)[0] for seed in SEEDS) for lr in RATES}
    best = min(medians, key=lambda lr: medians[lr])
    return medians[best], descend(make, best, correlation, SEEDS[0])[1]


def draw_valley() -> str:
    """Return the picture as SVG: lines of equal loss, and the way of each optimizer."""
    width, height, unit = 640, 420, 100

    def place(point: Point) -> Point:
        return (round(width / 2 + unit * (point[0] - 0.4), 1), round(height / 2 - 45 - unit * point[1], 1))

    x, y = place(GOAL)
    rings = ""
    for size in (0.25, 0.5, 0.75, 1.0, 1.25, 1.5):
        # eigenvalues of the curvature: 1 - correlation along the valley, 1 + correlation across it
        radii = [round(unit * size * math.sqrt(0.1 / (1 + sign * CORRELATION)), 1) for sign in (-1, 1)]
        rings += f'<ellipse cx="{x}" cy="{y}" rx="{radii[0]}" ry="{radii[1]}" transform="rotate(45 {x} {y})"/>\n'
    lines, words = "", ""
    for row, (name, (colour, make)) in enumerate(OPTIMIZERS.items()):
        left, way = tuned(make, CORRELATION)
        plain, _ = tuned(make, 0.0)
        places = [place(point) for point in way]
        points = " ".join(f"{across:g},{down:g}" for across, down in places)
        lines += f'<polyline points="{points}" stroke="{colour}"/>\n'
        dots = "".join(f'<circle cx="{across:g}" cy="{down:g}" r="3"/>' for across, down in places)
        lines += f'<g fill="{colour}" stroke="none">{dots}</g>\n'
        down = height - 34 + 22 * row
        words += f'<text x="20" y="{down}" fill="{colour}" font-weight="700">{name}</text>'
        words += f'<text x="95" y="{down}">{left:.6f} above the lowest loss after {STEPS} steps; '
        words += f"{plain:.6f} with independent inputs</text>\n"
    start = place(START)
    title = "Two ways through a narrow, slanted valley; that of WarpAdam is straighter"
    font = 'font-family="system-ui, Helvetica, Arial, sans-serif" font-size="12"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" {font}>
<title>{title}</title>
<clipPath id="frame"><rect width="{width}" height="{height - 56}"/></clipPath>
<g clip-path="url(#frame)">
<g fill="#7d8590" fill-opacity=".07" stroke="#7d8590" stroke-width="1">
{rings}</g>
<g fill="none" stroke-width="2.5" stroke-linejoin="round">
{lines}</g>
</g>
<g fill="#7d8590">
<text x="{start[0] - 12}" y="{start[1] - 10}" text-anchor="end">start</text>
<text x="{x + 62}" y="{y - 36}">lowest loss</text>
<path d="M{x} {y} l58 -40" stroke="#7d8590"/>
{words}</g>
</svg>
"""


def photograph_reports() -> None:
    """Run two jobs and save how their reports begin, and the page of the first."""
    from service.client.private import private_service
    from service.client.quick_spec import make_spec

    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, EXAMPLES / "make_churn.py"], cwd=folder, check=True)
        demo = runpy.run_path(str(EXAMPLES / "demo.py"))["SPEC"]
        settings = {
            "WARPTUNE_DATABASE_URL": f"sqlite:///{folder}/warptune.db",
            "WARPTUNE_ARTIFACTS_URL": f"{folder}/artifacts",
        }
        with private_service(settings) as client:
            uploaded, _ = client.upload(f"{folder}/churn.csv")
            churn = make_spec(
                uploaded,
                "churn.csv",
                {"target": "churned", "columns": {}, "split": None},
                objective={"metric": "val_accuracy"},
                budget={"trials_per_arm": 20, "steps": 400},
                seed=0,
            )
            for name, spec in (("verdict-helps", demo), ("verdict-unclear", churn)):
                job = client.submit(spec)["id"]
                for _ in client.watch(job):
                    pass
                page = Path(folder) / f"{name}.html"
                page.write_bytes(client.report(job))
                _photograph(page.as_uri(), "#next", IMAGES / f"{name}.png")
                if spec is demo:
                    _photograph(f"{client.url}/jobs/{job}", "#best", IMAGES / "job-page.png")


def _photograph(url: str, below: str, image: Path) -> None:
    """Save what stands above a part of a page."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 820, "height": 900})
        shown.goto(url)
        end = shown.locator(below).bounding_box()
        assert end is not None
        shown.screenshot(path=image, clip={"x": 0, "y": 0, "width": 820, "height": end["y"]}, full_page=True)
        browser.close()
    with Image.open(image) as full:
        full.convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(image, optimize=True)


def main(arguments: Sequence[str]) -> None:
    """Make the pictures that are named."""
    for name in arguments:
        if name == "valley":
            (IMAGES / "valley.svg").write_text(draw_valley())
        elif name == "reports":
            photograph_reports()
        else:
            sys.exit(f"pictures are valley and reports, not {name!r}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["valley"])
