"""The walls: imports point down, and every outside library has one home."""

import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest
from importlinter.api import read_configuration
from importlinter.application.use_cases import lint_imports

import empiarfs

ROOT = Path(__file__).parents[1]
HOMES = {
    "requests": {"empiarfs.empiar.connection"},
    "urllib3": {"empiarfs.empiar.connection"},
    "cachetools": {"empiarfs.lru"},
    "diskcache": {"empiarfs.storage.database"},
    "mfusepy": {"empiarfs.mount.binding"},
    "fuse": {"empiarfs.mount.binding"},
    "lxml": {"empiarfs.empiar.autoindex"},
    "ftplib": {"empiarfs.empiar.ftp"},
}
FAMILIES = {"click": "empiarfs.cli", "rich": "empiarfs.cli", "sqlite3": "empiarfs.storage"}
LAYERS = [
    {"cli", "__main__"},
    {"mount", "sample"},
    {"wire"},
    {"empiar", "storage"},
    {"archive"},
    {"engine"},
    {"ports", "settings"},
    {"cancellation", "private_dirs"},
    {"model", "errors", "counters", "paths", "units", "urls", "lru", "threads"},
]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Who imports whom, outside libraries too."""
    return grimp.build_graph("empiarfs", include_external_packages=True, cache_dir=None)


def sources() -> dict[str, Path]:
    """Return the file of every module."""
    base = Path(empiarfs.__file__).parent
    return {
        ".".join(("empiarfs", *path.relative_to(base).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in base.rglob("*.py")
    }


def outside(path: Path) -> set[str]:
    """Return the packages that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - {"empiarfs"}


def test_the_contracts_are_kept(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """import-linter finds nothing to say."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None), capsys.readouterr().out


def test_the_contracts_name_every_room() -> None:
    """A new module at the top stands in a layer, or the contract does not hold it."""
    layers = read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"][0]["layers"]
    named = {name.strip() for layer in layers for name in layer.replace(":", "|").split("|")}
    rooms = {".".join(module.split(".")[:2]) for module in sources()} - {"empiarfs", "empiarfs.__main__"}
    assert rooms == named


def test_the_contract_of_the_engine_names_every_module() -> None:
    """A module in no layer is held by nothing."""
    layers = read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"][1]["layers"]
    named = {name.strip() for layer in layers for name in layer.replace(":", "|").split("|")}
    assert named == {module for module in sources() if module.startswith("empiarfs.engine.")}


def test_a_contract_bites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One import the wrong way, in a copy, is found: by the layers, and by the homes of libraries."""
    program = (
        "import sys; from importlinter.application.use_cases import lint_imports; from importlinter import api; "
    )
    program += "sys.exit(not lint_imports(config_filename='pyproject.toml', cache_dir=None))"
    for module, line in (("model", "import empiarfs.engine.reader"), ("engine/tree", "import requests")):
        copy = tmp_path / module.replace("/", "-")
        shutil.copytree(ROOT / "empiarfs", copy / "empiarfs", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        with (copy / "empiarfs" / f"{module}.py").open("a") as file:
            file.write(f"\n{line}\n")
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=copy,
            env={"PYTHONPATH": str(copy)},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 1, done.stdout
        assert b"BROKEN" in done.stdout


@pytest.mark.parametrize("library", sorted(HOMES))
def test_a_library_has_one_home(graph: grimp.ImportGraph, library: str) -> None:
    """It is imported by one module, and by no other, not even inside a function."""
    by_source = {module for module, path in sources().items() if library in outside(path)}
    assert by_source == HOMES[library]
    if library in graph.modules:
        assert graph.find_modules_that_directly_import(library) == HOMES[library]


@pytest.mark.parametrize("library", sorted(FAMILIES))
def test_a_library_stays_in_its_room(library: str) -> None:
    """The command line alone knows click and rich; storage alone knows SQLite."""
    users = {module for module, path in sources().items() if library in outside(path)}
    assert users
    assert {user for user in users if not user.startswith(FAMILIES[library])} == set()


def test_imports_point_down(graph: grimp.ImportGraph) -> None:
    """Counted anew, without import-linter: no module imports one of a higher room."""
    height = {name: level for level, names in enumerate(reversed(LAYERS)) for name in names}
    wrong = []
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            if importer.count(".") and imported.startswith("empiarfs.") and importer.startswith("empiarfs."):
                above, below = importer.split(".")[1], imported.split(".")[1]
                if above != below and height[above] < height[below]:
                    wrong.append((importer, imported))
    assert wrong == []


def test_no_two_modules_import_each_other(graph: grimp.ImportGraph) -> None:
    """There is no ring of imports."""
    rings = [
        (one, other)
        for one in graph.modules
        for other in graph.find_modules_directly_imported_by(one)
        if other.startswith("empiarfs") and one in graph.find_modules_directly_imported_by(other)
    ]
    assert rings == []


def test_what_is_pure_stays_pure() -> None:
    """The arithmetic knows neither threads, clocks, files nor the network."""
    impure = {"threading", "time", "os", "socket", "random", "logging", "queue", "pathlib", "sqlite3", "datetime"}
    for module in ("engine.blocks", "engine.readahead", "model", "ports"):
        assert not outside(sources()[f"empiarfs.{module}"]) & impure


def test_every_outside_library_is_a_dependency() -> None:
    """What is imported is declared in pyproject.toml."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {one.partition(">")[0].strip().lower().replace("fusepy", "fuse") for one in declared} | {"mfusepy"}
    used = {package for path in sources().values() for package in outside(path)} - set(sys.stdlib_module_names)
    assert used <= names
