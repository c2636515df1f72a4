"""A library that is not installed is told apart from one that is broken."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.patience import PATIENCE
from trioserver.config.extras import MissingExtraError, needs


def import_it(name: str) -> None:
    with needs("water needs a bucket: pip install 'trioserver[bucket]'", "bucket"):
        __import__(name)


@pytest.mark.parametrize("name", ["bucket", "bucket.handle"])
def test_what_is_missing_is_said_with_what_to_install(name: str) -> None:
    with pytest.raises(MissingExtraError) as raised:
        import_it(name)
    assert str(raised.value) == "water needs a bucket: pip install 'trioserver[bucket]'"


def test_another_module_that_is_missing_is_raised_as_it_is() -> None:
    with pytest.raises(ModuleNotFoundError) as raised:
        import_it("trioserver.no_such_room")
    assert not isinstance(raised.value, MissingExtraError)
    assert raised.value.name == "trioserver.no_such_room"


def test_a_name_that_a_library_does_not_have_is_raised_as_it_is() -> None:
    with (
        pytest.raises(ImportError) as raised,
        needs("trio is needed", "trio"),
    ):
        from trio import no_such_name  # type: ignore[attr-defined]  # noqa: F401
    assert type(raised.value) is ImportError
    assert "no_such_name" in str(raised.value)


def test_what_is_there_is_imported() -> None:
    import_it("json")
    assert "json" in sys.modules


@pytest.mark.parametrize(
    ("library", "statement", "extra"),
    [
        ("sqlalchemy", "from trioserver import MigrationStep", "sql"),
        ("sqlalchemy", "from trioserver import SchemaTooNewError", "sql"),
        ("starlette", "import trioserver.http.api", "http"),
    ],
)
def test_a_public_name_whose_library_is_missing_says_what_to_install(
    library: str, statement: str, extra: str
) -> None:
    program = f"import sys\nsys.modules[{library!r}] = None\n{statement}"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "MissingExtraError: " in ended.stderr
    assert f"pip install 'trioserver[{extra}]'" in ended.stderr
