"""The house itself: which room may import which, what is installed, that everything public is documented."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.metadata
import inspect
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGE = "convexblocks"

# Arrows run one way: a room imports itself and the rooms to its left.
ORDER = ("formulations", "solvers", "certificates", "networks", "commands")
ROOMS = tuple(room for room in ORDER if (CHECKOUT / room / "__init__.py").is_file())
INSTALLED_SUFFIXES = (".py", ".typed", ".html", ".safetensors", ".json")


def sources(room: str) -> list[Path]:
    return sorted((CHECKOUT / room).glob("*.py"))


ALL_SOURCES = [pytest.param(room, path, id=f"{room}/{path.name}") for room in ROOMS for path in sources(room)]


def imported_names(tree: ast.AST, room: str) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every import, wherever it stands; relative ones are resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # the rooms are flat: one dot is the room, two are the package
                parents = [PACKAGE, room]
                kept = parents[: len(parents) + 1 - node.level]
                assert kept, f"line {node.lineno}: a relative import that leaves the package"
                base = ".".join([*kept, base] if base else kept)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def forbidden_imports(source: str, room: str) -> list[str]:
    allowed = ORDER[: ORDER.index(room) + 1]
    found = []
    for line, name in imported_names(ast.parse(source), room):
        parts = name.split(".")
        if parts[0] in ORDER:
            found.append(f"line {line}: {name}: say {PACKAGE}.{name}, or import relatively")
        elif parts[0] == PACKAGE and (len(parts) == 1 or parts[1] not in allowed):
            found.append(f"line {line}: {room} must not import {name}; it may import {', '.join(allowed)}")
        elif room == "formulations" and parts[0] == "torch":
            found.append(f"line {line}: formulations never imports torch; take the array's own namespace")
    return found


@pytest.mark.parametrize(("room", "path"), ALL_SOURCES)
def test_imports_run_one_way(room: str, path: Path) -> None:
    assert forbidden_imports(path.read_text(encoding="utf-8"), room) == []


@pytest.mark.parametrize(
    ("room", "line", "lawful"),
    [
        ("solvers", "from ..formulations import Subproblem", True),
        ("solvers", "from ..formulations.losses import Loss", True),
        ("solvers", "from .solution import Solution", True),
        ("solvers", "from . import solution", True),
        ("solvers", "import torch", True),
        ("commands", "from convexblocks.solvers import fit", True),
        ("formulations", "from ..solvers import solve", False),
        ("formulations", "from .. import solvers", False),
        ("formulations", "import convexblocks.solvers.batch", False),
        ("formulations", "def later():\n    from ..networks import datasets", False),
        ("formulations", "import torch", False),
        ("solvers", "import formulations", False),
        ("solvers", "import convexblocks", False),
        ("networks", "from ..commands.main import app", False),
    ],
)
def test_the_import_law_itself(room: str, line: str, lawful: bool) -> None:
    assert (forbidden_imports(line, room) == []) is lawful


def test_formulations_stay_light(tmp_path: Path) -> None:
    """A new process, because this one has long imported everything."""
    heavy = ("torch", "matplotlib", "sklearn", "typer")
    # cvxpy imports moreau where it is installed, and moreau imports torch.
    program = f"""
import sys
sys.modules["moreau"] = None
import {PACKAGE}.formulations
print([m for m in {heavy} if m in sys.modules])
"""
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


# What is imported under another name than it is installed by.
INSTALLED_AS = {"sklearn": "scikit-learn", "PIL": "pillow"}
OPTIONAL = ("osqp", "moreau", "cvxpylayers", "deepinv")


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", requirement, maxsplit=1)[0] for requirement in requirements}


def undeclared(source: str, room: str) -> list[str]:
    """Imports of packages that `pip install convexblocks` need not bring."""
    declared = requirement_names(PYPROJECT["project"]["dependencies"])
    names = [name.split(".")[0] for _, name in imported_names(ast.parse(source), room)]
    names = [name for name in names if name not in sys.stdlib_module_names and name not in (PACKAGE, "__future__")]
    return sorted({name for name in names if INSTALLED_AS.get(name, name) not in declared})


@pytest.mark.parametrize(("room", "path"), ALL_SOURCES)
def test_imports_are_declared_dependencies(room: str, path: Path) -> None:
    assert undeclared(path.read_text(encoding="utf-8"), room) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import joblib", []),
        ("from sklearn.datasets import load_digits", []),
        ("from .solution import Solution", []),
        ("import moreau", ["moreau"]),
        ("def later():\n    from osqp.interface import OSQP", ["osqp"]),
    ],
)
def test_undeclared_imports_are_noticed(line: str, found: list[str]) -> None:
    assert undeclared(line, "solvers") == found


def test_optional_packages_are_extras() -> None:
    """They are imported by name, through optional_package; a message that names an extra names one that exists."""
    text = "\n".join(path.read_text(encoding="utf-8") for room in ("solvers", "networks") for path in sources(room))
    asked = {name.split(".")[0] for name in re.findall(r'optional_package\("([\w.]+)"\)', text)}
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert asked == set(OPTIONAL)
    assert all(requirement_names(extras[name]) == {name} for name in OPTIONAL)
    assert set(re.findall(rf"{PACKAGE}\[(\w+)\]", text)) <= set(extras)


def test_optional_packages_are_not_needed(tmp_path: Path) -> None:
    """A new process that has none of them, whatever is installed: it solves, and imports none."""
    program = f"""
import sys
sys.modules |= dict.fromkeys({OPTIONAL})
import cvxpy as cp
from {PACKAGE}.solvers import CONIC_ENGINES, solve_problem
x, p = cp.Variable((2, 2), name="x", symmetric=True), cp.Parameter((2, 2), name="p", symmetric=True)
problem = cp.Problem(cp.Minimize(cp.norm(x - p, "nuc")), [x >> 0])
print(solve_problem(problem, {{"p": [[1.0, 0.0], [0.0, 2.0]]}}).require_solved().engine)
print([name for name in {OPTIONAL} if sys.modules[name] is not None])
"""
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["clarabel", "[]"]


def distribution() -> importlib.metadata.Distribution:
    """The installed one; a build leaves metadata in the checkout too, which `python -m pytest` would find."""
    for found in importlib.metadata.distributions(name=PACKAGE):
        if Path(str(found.locate_file(""))).resolve() != CHECKOUT:
            return found
    pytest.fail(f'{PACKAGE} is not installed; run pip install -c constraints.txt ".[test]"')


def test_declared_packages_are_the_folders() -> None:
    setuptools = PYPROJECT["tool"]["setuptools"]
    with_code = {
        path.parent.relative_to(CHECKOUT).as_posix()
        for path in CHECKOUT.glob("*/__init__.py")
        if path.parent.name not in {"build", "dist"}
    }
    assert with_code == set(ROOMS)
    assert sorted(setuptools["packages"]) == sorted(f"{PACKAGE}.{room}" for room in ROOMS)
    assert setuptools["package-dir"] == {f"{PACKAGE}.{room}": room for room in ROOMS}
    nested = [path for room in ROOMS for path in (CHECKOUT / room).rglob("*.py") if path.parent.name != room]
    assert nested == [], "keep every folder flat: setuptools packs listed packages only"
    assert not (CHECKOUT / PACKAGE).exists(), f"a folder {PACKAGE}/ would shadow the installed package"


def test_installed_files_are_the_sources() -> None:
    installed = distribution()
    assert installed.version == PYPROJECT["project"]["version"]
    origin = installed.read_text("direct_url.json")
    if origin and json.loads(origin).get("dir_info", {}).get("editable"):
        pytest.skip("an editable install lists no modules")
    files = {
        path.as_posix(): path
        for path in installed.files or ()
        if "__pycache__" not in path.parts and ".." not in path.parts  # the console script lies outside
    }
    top_level = {name.split("/")[0] for name in files}
    assert top_level == {PACKAGE, f"{PACKAGE}-{installed.version}.dist-info"}

    expected = {
        f"{PACKAGE}/{room}/{path.name}": path
        for room in ROOMS
        for path in (CHECKOUT / room).iterdir()
        if path.suffix in INSTALLED_SUFFIXES
    }
    packed = {name for name in files if name.startswith(f"{PACKAGE}/")}
    assert sorted(packed - set(expected)) == [], "packed but not in the tree: remove build/ and reinstall"
    assert sorted(set(expected) - packed) == [], "in the tree but not packed: reinstall, or see package-data"
    assert {f"{PACKAGE}/{room}/py.typed" for room in ROOMS} <= packed

    stale = [n for n, path in expected.items() if files[n].read_binary() != path.read_bytes()]
    assert stale == [], "the tests would check old code: reinstall"


def test_console_script_loads() -> None:
    scripts = [e for e in distribution().entry_points if e.group == "console_scripts"]
    assert [(script.name, script.value) for script in scripts] == [(PACKAGE, f"{PACKAGE}.commands.main:main")]
    assert callable(scripts[0].load())


def module_names() -> list[str]:
    """Every module of the installed rooms, found without importing them."""
    found = []
    for room in ROOMS:
        found.append(f"{PACKAGE}.{room}")
        names = (path.stem for path in sources(room))
        found += [f"{PACKAGE}.{room}.{name}" for name in names if name not in {"__init__", "__main__"}]
    return found


@pytest.mark.parametrize("name", module_names())
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # an example may write files
    results = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert results.failed == 0


def exports(module: ModuleType) -> dict[str, object]:
    names = getattr(module, "__all__", None)
    if names is None:
        names = [n for n, v in vars(module).items() if n[0] != "_" and not inspect.ismodule(v)]
        names = [n for n in names if getattr(vars(module)[n], "__module__", "").startswith(PACKAGE)]
    return {name: getattr(module, name) for name in names}


def undocumented(name: str, exported: object) -> list[str]:
    if not callable(exported):
        return []
    own = (exported.__doc__ or "").strip()
    # A dataclass without a docstring gets its signature for one.
    if not own or own.startswith(f"{name}("):
        return [name]
    if not inspect.isclass(exported):
        return []
    missing = []
    for member, value in vars(exported).items():
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        documentable = inspect.isfunction(function) or isinstance(value, property)
        # getdoc looks at the base classes too: an implementation inherits what its contract says.
        if documentable and not member.startswith("_") and not inspect.getdoc(getattr(exported, member)):
            missing.append(f"{name}.{member}")
    return missing


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_are_documented(room: str) -> None:
    module = importlib.import_module(f"{PACKAGE}.{room}")
    assert (module.__doc__ or "").strip(), "a room says in its __init__ what it is for"
    missing = [m for name, exported in exports(module).items() for m in undocumented(name, exported)]
    assert missing == []


@pytest.mark.parametrize("room", ROOMS)
def test_no_public_name_hides_a_module(room: str) -> None:
    """`from .check import check` would make `import room.check` give the function."""
    module = importlib.import_module(f"{PACKAGE}.{room}")
    modules = {info.name for info in pkgutil.iter_modules(module.__path__)}
    shadowed = [n for n, value in exports(module).items() if n in modules and not inspect.ismodule(value)]
    assert shadowed == []


def test_tests_are_no_package() -> None:
    """Importlib mode: an __init__.py here would bring back name clashes between test files."""
    assert list((CHECKOUT / "tests").rglob("__init__.py")) == []
