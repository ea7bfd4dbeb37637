"""Copies functions and classes out of their modules, with everything that they use, into one text.

Modules are parsed, not imported, so that the API does not load torch. Names of the packages that are copied are
followed; names of other packages become imports.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.util import find_spec, resolve_name
from itertools import pairwise
from pathlib import Path
from symtable import SymbolTable, symtable
from typing import Final, NamedTuple

from service.registry import PluginError

COMMENTS: Final = re.compile(r"  # (?:type: ignore|noqa)[^#\n]*")
"""Comments for our own tools."""


class Definition(NamedTuple):
    """What a name of a module stands for: an import, or the lines that define it."""

    node: ast.stmt
    text: str


class SourceCode:
    """Source code of functions and classes, with what they use.

    Args:
        packages: Top-level packages whose code is copied.
        given: Names that the text defines in another way.
    """

    def __init__(self, packages: Iterable[str], given: Iterable[str] = ()) -> None:
        self._packages, self._given = frozenset(packages), frozenset(given)
        self._modules: set[tuple[str, str]] = set()
        self._imports: set[tuple[str, str]] = set()
        self._owners: dict[str, str] = {}
        self._code: list[str] = []
        self._begun: set[tuple[str, str]] = set()

    def add(self, reference: str) -> str:
        """Add what an import string ``package.module:name`` stands for; return its name."""
        module, _, name = reference.partition(":")
        self._follow(module, name)
        return name

    @property
    def imports(self) -> str:
        """The import lines: those of the standard library, then the others."""
        blocks: tuple[list[str], list[str]] = ([], [])
        for module in sorted({module for module, _ in self._imports}):
            names = sorted(name for found, name in self._imports if found == module)
            block = blocks[module.partition(".")[0] not in sys.stdlib_module_names]
            block.append(f"from {module} import {', '.join(names)}")
        for module, alias in sorted(self._modules):
            block = blocks[module.partition(".")[0] not in sys.stdlib_module_names]
            block.append(f"import {module} as {alias}" if alias else f"import {module}")
        return "\n\n".join("\n".join(sorted(lines, key=_order)) for lines in blocks if lines)

    @property
    def code(self) -> str:
        """The definitions, each after what it uses."""
        return "\n\n\n".join(self._code)

    def _follow(self, module: str, name: str) -> None:
        if module.partition(".")[0] not in self._packages:
            self._imports.add((module, name))
            return
        definition = _definitions(module).get(name)
        if definition is None or name in self._given:
            return  # a builtin, or a name that is given
        match definition.node:
            case ast.Import(names=[alias]):  # ruff keeps one a line
                self._modules.add((alias.name, alias.asname or ""))
            case ast.ImportFrom(names=aliases) as node:
                original = next(alias.name for alias in aliases if name in (alias.asname, alias.name))
                other = resolve_name("." * node.level + (node.module or ""), module.rpartition(".")[0])
                if original == name:
                    self._follow(other, name)
                elif other.partition(".")[0] in self._packages:
                    raise PluginError(f"{module} imports {original} as {name}; import it under its own name")
                else:
                    self._imports.add((other, f"{original} as {name}"))
            case _:
                self._copy(module, name, definition)

    def _copy(self, module: str, name: str, definition: Definition) -> None:
        if (module, name) in self._begun:
            return
        self._begun.add((module, name))
        owner = self._owners.setdefault(name, module)
        if owner != module:
            raise PluginError(f"{owner} and {module} both define {name}; a script can contain one. Rename one of them")
        for used in _used(symtable(definition.text, module, "exec")):
            if used != name:
                self._follow(module, used)
        self._code.append(definition.text)


def _order(line: str) -> tuple[bool, str]:
    """Put ``import a`` before ``from a import b``."""
    return line.startswith("from "), line


@lru_cache(maxsize=64)
def _definitions(module: str) -> dict[str, Definition]:
    found = find_spec(module)
    assert found is not None, f"there is no module {module}"
    assert found.origin is not None, f"{module} has no file"
    text = Path(found.origin).read_text(encoding="utf-8")
    body = ast.parse(text).body
    return {name: Definition(node, source) for node, source in _statements(body, text) for name in _names(node)}


def _statements(body: list[ast.stmt], text: str) -> Iterator[tuple[ast.stmt, str]]:
    """Yield the statements of a module with their lines, the docstring of a constant included."""
    lines = text.splitlines()
    for node, following in pairwise([*body, None]):
        assert node is not None, "only the last one is"
        if isinstance(node, ast.If):  # TYPE_CHECKING: the imports only
            yield from ((inner, "") for inner in node.body if isinstance(inner, ast.Import | ast.ImportFrom))
            yield from _statements(node.orelse, text)
            continue
        start = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
        is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        documented = isinstance(node, ast.Assign | ast.AnnAssign) and is_text
        end = following.end_lineno if documented and following is not None else node.end_lineno
        yield node, COMMENTS.sub("", "\n".join(lines[start - 1 : end]))


def _used(scope: SymbolTable) -> Iterator[str]:
    """Yield the names that a definition takes from its module, or from the builtins."""
    at_the_top = scope.get_type() == "module"
    for symbol in scope.get_symbols():
        if symbol.is_global() or (at_the_top and symbol.is_referenced()):
            yield symbol.get_name()
    for inner in scope.get_children():
        yield from _used(inner)


def _names(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement of a module defines."""
    match node:
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in aliases)
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign(targets=targets):
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name
