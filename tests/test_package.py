"""The wheel that users install, and its types."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONSUMER = """
import io
from collections.abc import Iterator
from pathlib import Path

import empiarfs


def sizes(pattern: str) -> Iterator[tuple[str, int]]:
    with empiarfs.open_archive(cache_size="50G", offline=True, only=["EMPIAR-10028", 10934]) as archive:
        for path in archive.glob(pattern):
            found = archive.stat(path)
            if isinstance(found, empiarfs.File):
                yield path, found.size
        for directory, directories, files in archive.walk("10028"):
            directories.sort()
            yield directory, len(files)


def head(source: str | Path) -> bytes:
    file = empiarfs.open(source)
    raw: io.RawIOBase = file
    buffered = io.BufferedReader(raw)
    return buffered.read(1024)


def position(file: empiarfs.ArchiveFile) -> int:
    try:
        part: bytes = file.read_at(0, 4)
    except empiarfs.Stale as error:
        print(error.path, error.errno)
    size: str = file.size  # type: ignore[assignment]
    return file.seek(10) + file.tell()


default: empiarfs.Archive = empiarfs.default_archive()
empiarfs.set_default(default)
empiarfs.set_default("10028")  # type: ignore[arg-type]
empiarfs.opn("10028")  # type: ignore[attr-defined]
version: str = empiarfs.__version__
settings: int = empiarfs.Settings().cache_size
wrong: str = empiarfs.Settings().cache_size  # type: ignore[assignment]
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel, built with the installed packages, without a download."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "--wheel-dir", folder, ROOT],
        check=True, timeout=100, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """The wheel has each module and the marker of typed packages, and no tests or scripts."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "empiarfs").rglob("*.py")}
    assert names == {*expected, "empiarfs/py.typed"}


def test_a_program_that_uses_the_installed_package_is_checked_by_its_types(wheel: Path, tmp_path: Path) -> None:
    """With the wheel alone `mypy --strict` accepts a right program and finds the mistakes of a wrong one."""
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    place = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip()
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", place, wheel],
        check=True, timeout=100,
    )  # fmt: skip
    (tmp_path / "consumer.py").write_text(CONSUMER)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "--cache-dir", tmp_path / "cache",
         "--config-file", "", "consumer.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.stdout.startswith("Success"), done.stdout + done.stderr
