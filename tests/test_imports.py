"""The import contracts of pyproject.toml: they hold, they name every module, and each of them can fail."""

import ast
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRACTS = PYPROJECT["tool"]["importlinter"]["contracts"]
# imports that break a contract each, by the module that is not allowed to have them
WRONG = {
    "model": {"cachetools", "click", "diskcache", "empiarfs.archive", "ftplib", "fuse", "lxml", "mfusepy"}
    | {"requests", "rich", "sqlite3", "threading", "urllib3"},
    "engine/blocks": {"empiarfs.engine.reader", "time"},
    "cli/complete": {"empiarfs.engine.blocks", "requests"},
}


def lint(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run import-linter on the checkout `folder`."""
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )


def copy_with(folder: Path, wrong: dict[str, set[str]]) -> Path:
    """Copy the package and its contracts to `folder`, add the imports `wrong` to the modules; return `folder`."""
    shutil.copytree(ROOT / "empiarfs", folder / "empiarfs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for module, imports in wrong.items():
        with (folder / "empiarfs" / f"{module}.py").open("a") as file:
            file.writelines(f"\nimport {name}\n" for name in imports)
    return folder


def modules(below: str) -> set[str]:
    """Return the names of the modules and packages directly below the package `below`."""
    folder = ROOT.joinpath(*below.split("."))
    found = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    return {f"{below}.{name}" for name in found} - {f"{below}.__init__", f"{below}.__main__"}


def in_layers(contract: int) -> set[str]:
    """Return the names of the modules in the layers of a contract."""
    return {name.strip() for layer in CONTRACTS[contract]["layers"] for name in layer.replace(":", "|").split("|")}


def outside() -> Iterator[str]:
    """Yield the external packages that any module imports, at any level."""
    for path in (ROOT / "empiarfs").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                yield from (name.name.partition(".")[0] for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


def test_the_contracts_are_kept() -> None:
    """import-linter finds no contract broken."""
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout
    assert f"{len(CONTRACTS)} kept, 0 broken" in done.stdout


def test_the_layers_name_every_top_level_module() -> None:
    """Each module and package at the top of empiarfs/ is in a layer."""
    assert in_layers(0) == modules("empiarfs")


def test_the_layers_of_the_engine_name_every_module() -> None:
    """Each module of the engine is in a layer."""
    assert in_layers(1) == modules("empiarfs.engine")


def test_every_contract_can_fail(tmp_path: Path) -> None:
    """In a copy with wrong imports every contract is broken, and each of these imports is named."""
    done = lint(copy_with(tmp_path, WRONG))
    assert f"0 kept, {len(CONTRACTS)} broken" in done.stdout
    named = done.stdout.replace("\n", " ")
    missing = [
        (module, name)
        for module, imports in WRONG.items()
        for name in imports
        if f"empiarfs.{module.replace('/', '.')} -> {name} " not in named
    ]
    assert not missing


def test_a_cycle_within_a_package_is_found(tmp_path: Path) -> None:
    """Two modules of one package that import each other break the contract against cycles."""
    done = lint(copy_with(tmp_path, {"mount/names": {"empiarfs.mount.operations"}}))
    assert done.returncode == 1
    assert "No cycles are allowed in empiarfs.mount." in done.stdout


def test_every_outside_library_is_a_dependency() -> None:
    """Each imported package belongs to Python, or is in the dependencies of pyproject.toml."""
    declared = PYPROJECT["project"]["dependencies"]
    names = {one.partition(">")[0].strip().lower().replace("fusepy", "fuse") for one in declared} | {"mfusepy"}
    assert set(outside()) - set(sys.stdlib_module_names) - {"empiarfs"} <= names
