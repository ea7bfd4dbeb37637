"""Draws the rooms of ``service/`` and what imports what, as a Mermaid picture in docs/architecture.md.

    python docs/draw_rooms.py            # write the picture
    python docs/draw_rooms.py --check    # exit with status 1 if it is out of date

A room is a folder or module directly under ``service/``. The script reads imports without running them. An arrow that
follows from others is left out: with a -> b and b -> c, there is no arrow a -> c.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "architecture.md"
BEGIN: Final = "<!-- rooms: made by docs/draw_rooms.py -->"
END: Final = "<!-- end of rooms -->"

PACKAGES: Final = ("warptune", "service", "search_spaces", "warpadam")

BASICS: Final = "basics"
BASIC_ROOMS: Final = (
    *("accounts", "artifacts", "disk", "errors", "logs", "registry", "settings", "states", "temporary", "version"),
)
"""Small modules that nearly every room imports: one box in the picture."""

HIDDEN: Final = ("__init__", "__main__")

Graph = dict[str, set[str]]


def imported(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str | None:
    """Return the box in the picture for a dotted module name; None if it has none."""
    package, _, rest = module.partition(".")
    if package not in PACKAGES:
        return None
    if package != "service":
        return package
    room = rest.partition(".")[0]
    if room in HIDDEN or not room:
        return None
    return BASICS if room in BASIC_ROOMS else room


def read_rooms() -> Graph:
    """Return for each room the rooms that it imports."""
    graph: Graph = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
            if room is not None:
                found = {room_of(name) for name in imported(path)} - {None, room}
                graph.setdefault(room, set()).update(name for name in found if name)
    return graph


def sort_rooms(graph: Graph) -> list[str]:
    """Return the rooms so that each comes after all that it imports.

    Raises:
        SystemExit: Rooms import each other in a circle.
    """
    done: list[str] = []
    while len(done) < len(graph):
        ready = sorted(room for room in graph if room not in done and graph[room] <= set(done))
        if not ready:
            rooms = ", ".join(sorted(set(graph) - set(done)))
            sys.exit(f"cannot draw the rooms: an import circle runs through some of {rooms}")
        done += ready
    return done


def reduce_arrows(graph: Graph) -> Graph:
    """Return the graph without arrows that follow from longer ways."""
    below: Graph = {}
    for room in sort_rooms(graph):
        below[room] = graph[room].union(*(below[other] for other in graph[room]))
    return {
        room: {other for other in others if not any(other in below[via] for via in others - {other})}
        for room, others in graph.items()
    }


def draw() -> str:
    """Return the picture as a Mermaid block."""
    graph = reduce_arrows(read_rooms())
    order = sort_rooms(graph)[::-1]
    lines = ["```mermaid", "flowchart TD"]
    lines += [f"    {BASICS}[{', '.join(room for room in BASIC_ROOMS if is_there(room))}]"]
    lines += [f"    {room} --> {other}" for room in order for other in order if other in graph[room]]
    return "\n".join([*lines, "```"])


def is_there(room: str) -> bool:
    """Return whether the service has this room today."""
    return (ROOT / "service" / f"{room}.py").exists() or (ROOT / "service" / room).is_dir()


def main() -> None:
    """Write the picture, or check it with ``--check``."""
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    new = f"{head}{BEGIN}\n{draw()}\n{END}{tail}"
    if "--check" in sys.argv[1:]:
        if new != text:
            sys.exit("the picture in docs/architecture.md is out of date: run python docs/draw_rooms.py")
    else:
        PAGE.write_text(new)


if __name__ == "__main__":
    main()
