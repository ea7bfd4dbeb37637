"""Writes churn.csv, a made-up table of 800 customers to try warptune on: python examples/make_churn.py

Whether a customer leaves depends on the bill, the plan, the months since the contract began, and calls for support.
"""

from __future__ import annotations

import csv
import math
import random
from datetime import date, timedelta
from pathlib import Path

PLANS = {"basic": 0.4, "family": -0.6, "business": -0.2, "student": 0.6}
HEADER = ("customer_id", "plan", "region", "joined", "monthly_bill", "data_gb", "support_calls", "churned")


def rows(count: int, seed: int) -> list[tuple[str | int | float, ...]]:
    """Return the customers."""
    draw = random.Random(seed)
    found: list[tuple[str | int | float, ...]] = []
    for number in range(count):
        plan = draw.choice(list(PLANS))
        months = draw.randrange(1, 60)
        bill = round(draw.lognormvariate(3.4, 0.35), 2)
        calls = draw.choices(range(6), (40, 25, 15, 10, 6, 4))[0]
        gigabytes = round(draw.lognormvariate(2.0, 0.6), 1)
        pull = PLANS[plan] + 0.06 * (bill - 32) + 0.7 * (calls - 1.4) - 0.03 * (months - 30) - 0.05 * (gigabytes - 9)
        pull += 0.04 * (bill - 32) * (calls - 1.4)
        churned = draw.random() < 1 / (1 + math.exp(-1.5 * pull))
        joined = date(2026, 1, 1) - timedelta(days=round(30.4 * months))
        cells = (f"C-{number:05}", plan, draw.choice(("north", "south", "west")), joined.isoformat(), bill)
        found.append((*cells, gigabytes, calls, "yes" if churned else "no"))
    return found


def main() -> None:
    """Write the file into the current folder."""
    path = Path("churn.csv")
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows(800, seed=1)])
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
