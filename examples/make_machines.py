"""Writes machines.csv, readings of 40 made-up machines, and next.csv, of one more: python examples/make_machines.py

Each machine has 24 sensors. Three of them, the same ones everywhere, tell its wear; each machine weighs them in its own
way. So a model of one machine says nothing about another, but which sensors matter can be learned once for all.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

SENSORS = 24
READINGS = 60


def readings(machine: int) -> list[list[float | str]]:
    """Return the rows of a machine: its sensors, its name, and its wear."""
    draw = random.Random(machine)
    side = draw.choice((-1, 1))
    weights = [draw.gauss(side * typical, 1) for typical in (2, -2, 2)]
    rows: list[list[float | str]] = []
    for _ in range(READINGS):
        sensors = [round(draw.gauss(0, 1), 5) for _ in range(SENSORS)]
        wear = sum(weight * sensor for weight, sensor in zip(weights, sensors, strict=False)) + draw.gauss(0, 0.1)
        rows.append([*sensors, f"M-{machine:02}", round(wear, 5)])
    return rows


def main() -> None:
    """Write both files into the current folder."""
    header = [*(f"sensor_{index}" for index in range(SENSORS)), "machine", "wear"]
    for name, machines in (("machines.csv", range(40)), ("next.csv", range(40, 41))):
        with Path(name).open("w", newline="") as file:
            csv.writer(file).writerows([header, *(row for machine in machines for row in readings(machine))])
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
