"""Which interpreters the suite runs on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.pythons import find as finding
from tests.pythons.find import find

HERE = sys.version_info[:3]
BASE = Path(sys._base_executable)  # type: ignore[attr-defined]  # of CPython


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def claims(path: Path, version: str, *, implementation: str = "cpython", **more: bool) -> Path:
    """Something that says it is a Python."""
    flags = {"free_threaded": False, "venv": True} | more
    fields = "".join(f', "{name}": {str(value).lower()}' for name, value in flags.items())
    said = (
        f'{{"version": [{version}], "implementation": "{implementation}", '
        f'"executable": "{path}"{fields}}}'
    )
    return script(path, f"echo '{said}'")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"PATH": f"{tmp_path / 'bin'}:{tmp_path / 'nowhere'}", "HOME": str(tmp_path)}


def names(environment: dict[str, str]) -> list[str]:
    return [one.name for one in find(environment)]


def test_a_real_one_says_what_it_is(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(BASE)
    (one,) = find(environment)
    assert one.version == HERE
    assert one.path.resolve() == BASE.resolve()


def test_they_come_from_the_path_and_from_pyenv_and_uv(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    claims(tmp_path / "bin/python3.12", "3, 12, 1")
    claims(tmp_path / ".pyenv/versions/3.14.0/bin/python3.14", "3, 14, 0")
    claims(tmp_path / ".local/share/uv/python/cpython-3.13.2/bin/python3.13", "3, 13, 2")
    assert names(environment) == ["3.12.1", "3.13.2", "3.14.0"]
    environment |= {"PYENV_ROOT": str(tmp_path / "x"), "UV_PYTHON_INSTALL_DIR": str(tmp_path / "y")}
    assert names(environment) == ["3.12.1"]
    claims(tmp_path / "x/versions/3.11.9/bin/python3", "3, 11, 9")
    claims(tmp_path / "y/cpython-3.13.1/bin/python3", "3, 13, 1")
    assert names(environment) == ["3.11.9", "3.12.1", "3.13.1"]


def test_the_newest_of_a_minor_version_is_taken_once(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    claims(tmp_path / "bin/python3.11", "3, 11, 2")
    claims(tmp_path / ".pyenv/versions/3.11.10/bin/python3", "3, 11, 10")
    claims(tmp_path / ".pyenv/versions/3.11.7/bin/python3", "3, 11, 7")
    assert names(environment) == ["3.11.10"]


def test_a_shim_that_does_not_run_and_what_is_not_executable_are_none(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "_PATIENCE", 0.5)
    script(tmp_path / "bin/python3.12", "echo 'pyenv: python3.12: command not found'; exit 127")
    script(tmp_path / "bin/python3.13", "echo 'not what was asked for'")
    script(tmp_path / "bin/python3.15", "exec sleep 60")
    claims(tmp_path / "bin/python3.14", "3, 14, 0").chmod(0o644)
    (tmp_path / "bin/python3.16").symlink_to("gone")
    claims(tmp_path / "bin/python3-config", "3, 17, 0")
    assert names(environment) == []


def test_what_is_too_old_or_of_another_kind_is_left_out(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    claims(tmp_path / "bin/python3.10", "3, 10, 13")
    claims(tmp_path / "a/versions/pypy/bin/python3", "3, 11, 11", implementation="pypy")
    claims(tmp_path / "a/versions/3.13.0t/bin/python3", "3, 13, 0", free_threaded=True)
    claims(tmp_path / "a/versions/debian/bin/python3", "3, 12, 0", venv=False)
    environment["PYENV_ROOT"] = str(tmp_path / "a")
    assert names(environment) == []
    claims(tmp_path / "bin/python3.12", "3, 12, 0")
    assert names(environment) == ["3.12.0"]
