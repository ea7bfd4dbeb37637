"""Compute a digest of what code does.

Comments, docstrings and layout do not change it, so you can improve a docstring without making results invalid.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path


def code_digest(folder: Path) -> str:
    """Return a short digest of all Python files in ``folder`` and its subfolders."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                node.body = [line for line in node.body if not _is_text(line)]
        digest.update(f"{path.relative_to(folder)}\n{ast.dump(tree)}\n".encode())
    return digest.hexdigest()[:12]


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)
