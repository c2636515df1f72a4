"""The public names: what an embedder may import, and that it is enough.

Whatever a public signature names is public itself: the types of parameters, results, properties and
fields, and the errors that a docstring says are raised.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import attrs
import pytest

from tests.support.patience import PATIENCE

ROOT: Final = Path(__file__).parent.parent

MODULES: Final = ("trioserver", "trioserver.auth", "trioserver.client", "trioserver.http.api")
"""Everything that an embedder needs is in one of these, and nothing else is promised."""

OWN: Final = ("trioserver", "protocol")

NOT_FOR_EMBEDDERS: Final = {
    # Objects that an embedder gets, and does not make.
    "Client.__init__",
    "Connection.__init__",
    "Messages.__init__",
    "Route.__init__",
    "Server.__init__",
    "Stream.__init__",
    "Subscription.__init__",
    # What the server calls of an embedder's objects, and its own parts of each other.
    "Application.components",
    "Application.engine",
    "Application.limit_messages",
    "Application.match",
    "CloseReason.from_error",
    "ConnectionFilter.fits",
    "Mailbox.join",
    "Mailbox.leave",
    "Presence.bind",
    "RequestRejectedError.from_error",
    "Server.connection_totals",
    "Server.connection_totals_nowait",
    "Server.metrics",
}

STATED_BY_US: Final = {
    # Protocols that a lower folder states for an object that embedders have anyway.
    "trioserver.telemetry.metrics.source.MetricsSource",  # `Server`
}


def public() -> dict[str, Any]:
    """The public objects, by "module.name"."""
    found = {}
    for name in MODULES:
        module = import_module(name)
        for each in module.__all__:
            found[f"{name}.{each}"] = getattr(module, each)
    return found


def home_of(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


@cache
def tree_of(module: str) -> ast.Module:
    source = inspect.getsource(import_module(module))
    return ast.parse(source)


@cache
def names_in(module: str) -> dict[str, str]:
    """Where the names of a module come from, also those that are imported for type checkers."""
    names = {}
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.ClassDef):
            names.setdefault(node.name, f"{module}.{node.name}")
    for node in tree_of(module).body:
        target = alias_of(node)
        if target is not None:
            names.setdefault(target[0], f"{module}.{target[0]}")
    return names


def alias_of(node: ast.stmt) -> tuple[str, ast.expr] | None:
    """The name and the value of a type alias or a constant."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
        return node.target.id, node.value
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id, node.value
    return None


def resolve(path: str) -> str:
    """Where a name is defined, through the modules that pass it on."""
    module, _, name = path.rpartition(".")
    if not module.startswith(OWN):
        return path
    further = names_in(module).get(name, path)
    return path if further == path else resolve(further)


def expressions(annotation: ast.expr) -> Iterator[ast.expr]:
    """The names of an annotation, also those within text."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                yield from expressions(ast.parse(node.value, mode="eval").body)
            except SyntaxError:
                continue
        elif isinstance(node, ast.Name):
            yield node


def named_by(annotation: ast.expr, module: str) -> Iterator[str]:
    """The full names of our classes in an annotation. An alias stands for its value."""
    for node in expressions(annotation):
        assert isinstance(node, ast.Name)
        full = resolve(names_in(module).get(node.id, node.id))
        if not full.startswith(tuple(f"{own}." for own in OWN)):
            continue
        home, _, name = full.rpartition(".")
        aliases = dict(filter(None, map(alias_of, tree_of(home).body)))
        if name not in aliases:
            yield full
        elif not is_type_variable(aliases[name]):
            yield from named_by(aliases[name], home)


def is_type_variable(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func) == "TypeVar"


def functions_of(thing: type) -> Iterator[tuple[str, ast.expr | None, str, str]]:
    """For each public part of a class: its name, an annotation, the module, and its docstring."""
    for base in thing.__mro__:
        if not base.__module__.startswith(OWN):
            continue
        for node in ast.walk(tree_of(base.__module__)):
            if isinstance(node, ast.ClassDef) and node.name == base.__qualname__:
                yield from parts_of(node, base)


def parts_of(node: ast.ClassDef, owner: type) -> Iterator[tuple[str, ast.expr | None, str, str]]:
    module = owner.__module__
    yield node.name, None, module, ast.get_docstring(node) or ""
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            name = part.target.id
            if not name.startswith("_") and attrs.has(owner):
                yield f"{node.name}.{name}", part.annotation, module, ""
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            is_public = not part.name.startswith("_") or part.name in ("__init__", "__call__")
            if is_public and f"{node.name}.{part.name}" not in NOT_FOR_EMBEDDERS:
                yield from signature(part, f"{node.name}.{part.name}", module)


def signature(
    node: ast.FunctionDef | ast.AsyncFunctionDef, name: str, module: str
) -> Iterator[tuple[str, ast.expr | None, str, str]]:
    arguments = node.args
    for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        if each.annotation is not None:
            yield name, each.annotation, module, ""
    yield name, node.returns, module, ast.get_docstring(node) or ""


@cache
def errors() -> dict[str, str]:
    """Our exceptions, by name."""
    found: dict[str, str] = {}
    todo: list[type[Exception]] = [Exception]
    while todo:
        each: type[Exception]
        for each in todo.pop().__subclasses__():
            todo.append(each)
            if each.__module__.startswith(tuple(f"{own}." for own in OWN)):
                found[each.__name__] = home_of(each)
    return found


def raised_by(docstring: str) -> Iterator[str]:
    for sentence in re.split(r"(?<=[.;])\s", docstring):
        if re.search(r"\b[Rr]aise", sentence):
            for name in re.findall(r"`(?:\w+\.)*(\w+)`", sentence):
                if name in errors():
                    yield errors()[name]


def needs() -> Iterator[tuple[str, str]]:
    """What public names need: who needs it, and the full name."""
    for path, thing in public().items():
        parts: Iterator[tuple[str, ast.expr | None, str, str]]
        if inspect.isclass(thing):
            parts = functions_of(thing)
        elif inspect.isfunction(thing):
            [node] = [
                each
                for each in ast.walk(tree_of(thing.__module__))
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
                and each.name == thing.__name__
            ]
            parts = signature(node, thing.__name__, thing.__module__)
        else:
            continue  # an alias or a constant
        for name, annotation, module, docstring in parts:
            where = path if name == path.rpartition(".")[2] else f"{path}: {name}"
            if annotation is not None:
                for full in named_by(annotation, module):
                    yield where, full
            for full in raised_by(docstring):
                yield where, full


def homes_of_public_names() -> set[str]:
    return {resolve(path) for path in (*public_paths(), *(home_of(t) for t in classes()))}


def public_paths() -> Iterator[str]:
    for name in MODULES:
        module = import_module(name)
        stub = Path(str(module.__file__)).with_suffix(".pyi")
        for statement in ast.parse(stub.read_text()).body if stub.exists() else ():
            if isinstance(statement, ast.ImportFrom):
                yield from (f"{statement.module}.{alias.name}" for alias in statement.names)
        if not stub.exists():
            yield from (f"{name}.{each}" for each in module.__all__)


def classes() -> Iterator[type]:
    return (thing for thing in public().values() if inspect.isclass(thing))


def test_whatever_a_public_signature_names_is_public() -> None:
    known = homes_of_public_names()
    missing = {full: where for where, full in needs() if full not in known | STATED_BY_US}
    assert missing == {}


@pytest.mark.parametrize("name", MODULES)
def test_all_public_names_can_be_imported(name: str) -> None:
    module: ModuleType = import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for each in module.__all__:
        assert getattr(module, each) is not None
        assert each in dir(module)
    with pytest.raises(AttributeError):
        module.no_such_name  # noqa: B018


def test_a_stub_that_is_read_by_type_checkers_names_what_is_there() -> None:
    """Each line imports one name, under the same name; only so type checkers pass it on."""
    stub = (ROOT / "trioserver" / "__init__.pyi").read_text()
    for statement in ast.parse(stub).body:
        if isinstance(statement, ast.ImportFrom):
            [alias] = statement.names
            assert alias.asname == alias.name


PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documentation_imports_from_public_modules_only(page: Path) -> None:
    text = page.read_text()
    allowed = (*MODULES, "trioserver.examples")
    for module, names in re.findall(r"^\s*from (trioserver[\w.]*) import ([\w, ]+)", text, re.M):
        assert module in allowed or module.startswith("trioserver.examples."), module
        if module in MODULES:
            for name in names.split(","):
                assert name.strip() in import_module(module).__all__, (module, name)
    for module in re.findall(r"^\s*import (trioserver[\w.]*)", text, re.M):
        assert module in MODULES
    inner = "app|config|engine|lifecycle|logs|peers|server|storage|telemetry|websocket"
    assert re.findall(rf"`trioserver\.(?:{inner})\.[\w.]+", text) == []


def test_importing_the_package_imports_no_server() -> None:
    code = "import sys, trioserver; print('trio' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert done.stdout == "False\n"
