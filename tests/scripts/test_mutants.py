"""scripts/mutants: its faults agree with the checkout, so that a run of it tries what they say."""

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).resolve().parents[2]


def load(script: Path) -> ModuleType:
    """Return the program `script`, which has no suffix, as a module."""
    loader = SourceFileLoader(script.name, str(script))
    spec = importlib.util.spec_from_loader(script.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[script.name] = module  # dataclasses look it up
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = bytecode
    return module


mutants = load(PROJECT / "scripts" / "mutants")
FAULTS = mutants.faults_of(PROJECT)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one module and one test."""
    for name, text in {"empiarfs/a.py": "x = 1\ny = 1\n", "tests/test_a.py": "def test_x() -> None: ...\n"}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.file}: {fault.says}")
def test_every_fault_agrees_with_the_checkout(fault: object) -> None:
    """The text of each fault stands exactly once in its file, leaves Python behind, and its tests exist."""
    assert not list(mutants.mistakes(fault, PROJECT))


def test_every_fault_has_its_own_words() -> None:
    """No two faults say the same of one file, so that each can be chosen by its words."""
    assert len({(fault.file, fault.says) for fault in FAULTS}) == len(FAULTS) > 0


@pytest.mark.parametrize(
    ("wrong", "mistake"),
    [
        ({}, ""),
        ({"text": "z = 1"}, "'z = 1' stands 0 times in empiarfs/a.py, not once"),
        ({"text": " = 1"}, "' = 1' stands 2 times in empiarfs/a.py, not once"),
        ({"instead": "x ="}, "'x =' in place of 'x = 1' is no Python: any test would catch it"),
        ({"file": "empiarfs/b.py"}, "there is no empiarfs/b.py"),
        ({"tests": ("tests/test_b.py",)}, "there is no tests/test_b.py"),
        ({"tests": ("tests/test_a.py::test_y",)}, "tests/test_a.py has no test_y"),
        ({"tests": ()}, "it names no tests"),
    ],
)
def test_a_fault_that_does_not_agree_is_named(checkout: Path, wrong: dict[str, object], mistake: str) -> None:
    """A fault that does not agree with the checkout yields one line that says how."""
    right = {
        "file": "empiarfs/a.py",
        "says": "x is 2",
        "text": "x = 1",
        "instead": "x = 2",
        "tests": ("tests/test_a.py::test_x",),
    }
    assert "".join(mutants.mistakes(mutants.Fault(**right | wrong), checkout)) == mistake


@pytest.mark.parametrize("text", ["[[fault]]\nfile = 'a'\n", "[[fault]]\ntests = []\nwhy = ''\n", "[[fault]", ""])
def test_a_file_that_is_no_list_of_faults_is_named(checkout: Path, text: str) -> None:
    """A faults.toml that is malformed, lacks a key or has an unknown one ends the program with its name."""
    (checkout / "tests" / "faults.toml").write_text(text)
    with pytest.raises(SystemExit, match=r"^tests/faults\.toml: not a list of faults: "):
        mutants.faults_of(checkout)
