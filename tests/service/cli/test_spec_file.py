# A spec file means what its JSON would mean, whether it is written as JSON or as YAML.
from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from service.cli.spec_file import read_spec, write_spec
from service.spec.job import JobSpec


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.0e-3", 0.001),
        ("-2E+2", -200.0),
        (".5e1", 5.0),
        ("1_000", "1_000"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("no", "no"),
        ("off", "off"),
        ("-7", -7),
        ("1.", 1.0),
        ("~", None),
        ("0.5", 0.5),
        ("7", 7),
        ("true", True),
        ("null", None),
        ("2026-01-31", "2026-01-31"),
        ("2026-13-99", "2026-13-99"),
        ("1e-3x", "1e-3x"),
        ("e5", "e5"),
        ('"1e-3"', "1e-3"),
        ("{low: 1e-4, high: 1e-1}", {"low": 1e-4, "high": 1e-1}),
    ],
)
def test_yaml_value_is_what_a_user_of_json_expects(tmp_path: Path, text: str, value: object) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(f"value: {text}\n")
    found = read_spec(path)["value"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("value", [1e-7, 1e22, 2**60, "\U0001f680", "\t", "a: b", "yes", None, ["1e3", 1e3], {"": 0}])
def test_json_file_is_read_as_json(tmp_path: Path, value: object) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"value": value}, indent="\t"))
    assert read_spec(path) == {"value": value}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1", "is neither YAML nor JSON"),
        (b"a: b: c", "is neither YAML nor JSON"),
        (b"a: 1\n---\nb: 2", "is neither YAML nor JSON"),
        (b"\xff\xfe\xfa", "is not UTF-8 text: .* Save it with the encoding UTF-8"),
        ("name: Größe".encode("latin-1"), "is not UTF-8 text: .* byte 0xf6 .* Save it with the encoding UTF-8"),
        ("name: x".encode("utf-16"), "is not UTF-8 text: .* Save it with the encoding UTF-8"),
        (b"\x00", "is neither YAML nor JSON"),
        (b"[" * 5000, "is neither YAML nor JSON"),
        (b"a: !!python/object/apply:os.system [exit]", "is neither YAML nor JSON"),
        (b"", "holds nothing"),
        (b"[]", "holds a list"),
        (b"a: .nan", "holds a value that JSON does not have"),
        (b'{"a": Infinity}', "holds a value that JSON does not have"),
        (b"a: &x [*x]", "holds a value that JSON does not have"),
        (b"a: !!binary aGk=", "holds a value that JSON does not have"),
        (b"a: !!set {b}", "holds a value that JSON does not have"),
        (b'{"a": "\\ud800"}', "holds a value that JSON does not have"),
    ],
)
def test_what_is_no_spec_is_said_with_the_name_of_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_spec(path)
    assert str(path) in str(caught.value)


def test_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_spec(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "content",
    [
        "budget: {steps: 10}\nname: x\nbudget: {steps: 20}\n",
        "budget:\n  steps: 10\n  steps: 20\n",
        '{"budget": {"steps": 10, "steps": 20}}',
    ],
)
def test_a_field_that_is_there_twice_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"spec.yaml: the field '(budget|steps)' appears twice"):
        read_spec(path)


def test_a_field_that_stands_for_a_merged_one_is_there_once(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("a: &a {x: 1}\nb:\n  c: &c {<<: *a, x: 2}\nd: {<<: *c, y: 3}\n")
    assert read_spec(path) == {"a": {"x": 1}, "b": {"c": {"x": 2}}, "d": {"x": 2, "y": 3}}


GIVEN = {
    "name": "1e3",
    "dataset": {"id": "ds-1", "target": "null", "columns": {"zip: code": "category", "1e5": "ignore"}},
    "model": {"name": "convnet", "activation": "gelu"},
    "objective": {"metric": "val_accuracy"},
    "seed": 3,
}


def test_a_written_spec_is_read_as_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(write_spec(GIVEN, ["about # the: data"]))
    assert read_spec(tmp_path / "spec.yaml") == GIVEN


def test_the_defaults_of_a_written_spec_are_those_of_the_service(tmp_path: Path) -> None:
    fields = write_spec(GIVEN, []).partition("\n\n")[2]
    unmarked = re.sub(r"^( *)# ((?:  )*(?:\w+:|# ).*)$", r"\1\2", fields, flags=re.MULTILINE)
    (tmp_path / "spec.yaml").write_text(unmarked)
    spec = JobSpec.model_validate(read_spec(tmp_path / "spec.yaml"))
    assert spec == JobSpec.model_validate(GIVEN)
    assert spec.model_fields_set == set(JobSpec.model_fields)
    assert spec.training.model_fields_set == set(type(spec.training).model_fields)
