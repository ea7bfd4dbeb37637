# What a function uses is copied with it, and nothing else.
from __future__ import annotations

from pathlib import Path

import pytest

from service.export.source import SourceCode
from service.registry import PluginError

HELPERS = '''
import math
from collections.abc import Mapping as Map
from pkg.other import twice

LIMIT: int = 3
"""What is allowed."""

def unused():
    return twice

def area(radius: float) -> float:
    math_of_mine, unused = math.pi, LIMIT
    return twice(math_of_mine * radius**2) + unused  # type: ignore[no-any-return]

class Shape(Base):
    given: Map

SHAPE = area(1.0)
unused().register(SHAPE)

def local():
    from pkg.other import LIMIT
    return LIMIT
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    name = f"pkg_{request.node.name.replace('[', '_').replace(']', '')}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "helpers.py").write_text(HELPERS.replace("pkg", name))
    (tmp_path / name / "other.py").write_text("raise AssertionError\n\ndef twice(x):\n    return 2 * x\n\nLIMIT = 4\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_a_function_is_copied_after_what_it_uses_without_importing_anything(package: str) -> None:
    source = SourceCode({package})
    assert source.add(f"{package}.helpers:area") == "area"
    assert source.imports == "import math"
    limit = 'LIMIT: int = 3\n"""What is allowed."""'
    area = source.code[source.code.index("def area") :]
    assert source.code == f"{limit}\n\n\ndef twice(x):\n    return 2 * x\n\n\n{area}"
    assert area.endswith("+ unused")
    scope: dict[str, object] = {}
    exec(f"{source.imports}\n{source.code}\nresult = area(1.0)", scope)
    assert scope["result"] == pytest.approx(9.283185)


def test_names_that_are_given_or_imported_inside_are_left_out(package: str) -> None:
    source = SourceCode({package}, {"Base"})
    source.add(f"{package}.helpers:Shape")
    source.add(f"{package}.helpers:local")
    assert source.imports == "from collections.abc import Mapping as Map"
    assert "LIMIT: int" not in source.code


def test_other_packages_are_imported(package: str) -> None:
    source = SourceCode({package})
    source.add("json:dumps")
    assert (source.imports, source.code) == ("from json import dumps", "")


def test_two_definitions_of_one_name_are_refused(package: str) -> None:
    source = SourceCode({package})
    source.add(f"{package}.helpers:area")
    with pytest.raises(PluginError, match=r"helpers and .*other both define LIMIT"):
        source.add(f"{package}.other:LIMIT")


def test_a_call_after_a_constant_is_not_taken_for_its_docstring(package: str) -> None:
    source = SourceCode({package})
    source.add(f"{package}.helpers:SHAPE")
    assert source.code.endswith("SHAPE = area(1.0)")
    assert "def unused" not in source.code
