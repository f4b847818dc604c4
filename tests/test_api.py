"""The Python API: the archive of a process, and files by name."""

import io
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib import metadata
from pathlib import Path

import pytest
from support import sandbox
from support.apache import Apache
from support.fixture_tree import FixtureTree
from support.mounting import Mounts

import empiarfs
from empiarfs import api
from empiarfs.setting_sources import from_keywords
from empiarfs.settings import Settings

PATH = "10100/data/random.bin"
HEAVY = {"click", "diskcache", "imagecodecs", "lxml", "numpy", "platformdirs", "requests", "rich", "tifffile"}
# in a process of its own: what a program forks is not pytest
PROGRAM = """
import multiprocessing, pickle, signal, sys, warnings
import empiarfs

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads and forks, which is the case
method, path = sys.argv[1:]

def part(file, offset):
    signal.alarm(60)
    file.seek(offset)
    return file.read(1000), file.tell(), file._archive is empiarfs.default_archive()

def rest(queue):
    signal.alarm(60)
    queue.put((inherited.read(1000), inherited.tell(), inherited._archive is empiarfs.default_archive()))

if __name__ == "__main__":
    inherited = empiarfs.open(path)
    first = inherited.read(1000)
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        parts = pool.starmap(part, [(inherited, offset) for offset in (0, 3000, 300_000)])
    if method == "fork":
        queue = context.Queue()
        child = context.Process(target=rest, args=(queue,))
        child.start()
        parts.append(queue.get(timeout=60))
        child.join(60)
    empiarfs.default_archive().close()
    sys.stdout.buffer.write(pickle.dumps((first, parts)))
"""

FORKS = """
import os, signal, sys, threading, time, warnings
import empiarfs
from empiarfs import files, wire

warnings.simplefilter("ignore", DeprecationWarning)

def in_child(act):
    process = os.fork()
    if not process:
        signal.alarm(30)
        try:
            os._exit(0 if act() else 3)
        finally:
            os._exit(4)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

def refuses():
    try:
        empiarfs.open(sys.argv[1])
    except empiarfs.Closed:
        return True

def hold():
    with files._positions:
        held.set()
        time.sleep(0.3)

archive = empiarfs.open_archive(only=10100, max_connections=2)
empiarfs.set_default(archive)
child = lambda: empiarfs.default_archive()
print(in_child(lambda: child().recipe == archive.recipe and child() is not archive and child() is child()))
file, held = empiarfs.open(sys.argv[1]), threading.Event()
holding = threading.Thread(target=hold)
holding.start()
held.wait()
print(in_child(lambda: file.seek(7) == 7 and file.tell() == 7))
holding.join()
bare = wire.archive(archive.recipe.settings)
empiarfs.set_default(bare)
print(in_child(refuses))
bare.close()
archive.close()
"""


@pytest.fixture
def environment(apache: Apache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Apache]:
    """Set an environment whose settings name `apache`, in a process without an archive."""
    for name in [name for name in os.environ if name.startswith("EMPIARFS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "EMPIARFS_BASE_URL": apache.url,
        "EMPIARFS_CACHE_DIR": str(tmp_path / "cache"),
        "EMPIARFS_MEMORY_CACHE_SIZE": "16M",
        "EMPIARFS_NO_FTP": "1",
        "XDG_CONFIG_HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(api, "_process", api._Process())
    apache.clear()
    yield apache
    api._process.close()


@pytest.fixture
def content(tree: FixtureTree) -> bytes:
    """Return the content of `PATH`."""
    return (tree.root / PATH).read_bytes()


def python(*words: str | Path) -> "subprocess.CompletedProcess[bytes]":
    """Run Python, and check that it succeeds."""
    environ = {**os.environ, "PYTHONPATH": str(sandbox.PROJECT)}
    done = subprocess.run([sys.executable, *words], capture_output=True, timeout=100, check=False, env=environ)
    assert done.returncode == 0, done.stderr.decode()
    return done


def test_importing_the_package_imports_no_library() -> None:
    """`import empiarfs` imports only itself, and `dir`, which shows all names, nothing more."""
    program = (
        "import sys, empiarfs; assert set(empiarfs.__all__) <= set(dir(empiarfs)); "
        "assert not hasattr(empiarfs, 'nothing'); print(' '.join(sorted(sys.modules)))"
    )
    modules = python("-c", program).stdout.decode().split()
    assert [name for name in modules if name.startswith("empiarfs")] == ["empiarfs"]
    assert HEAVY.isdisjoint(modules)


def test_importing_the_package_is_fast() -> None:
    """The import takes less than 0.15 s by Python's own measure, the best of three on a busy machine."""

    def seconds() -> float:
        done = python("-X", "importtime", "-c", "import empiarfs")
        (line,) = [line for line in done.stderr.decode().splitlines() if line.endswith("| empiarfs")]
        return int(line.split("|")[1]) / 1e6

    assert min(seconds() for _ in range(3)) < 0.15


def test_every_public_name_exists_and_no_other() -> None:
    """Each public name can be used, and a mistyped one raises an AttributeError that names it."""
    for name in empiarfs.__all__:
        assert getattr(empiarfs, name) is not None
        assert name in vars(empiarfs)  # and is found there from now on
    with pytest.raises(AttributeError, match="'opn'"):
        empiarfs.opn  # type: ignore[attr-defined] # noqa: B018
    assert empiarfs.__version__ == metadata.version("empiarfs")


def test_every_error_of_the_package_is_public() -> None:
    """A program can catch each of them by a name of `empiarfs`."""
    from empiarfs import errors  # noqa: PLC0415 - to look into it

    kinds = {name for name, value in vars(errors).items() if isinstance(value, type) and name != "Any"}
    assert kinds - {"ClassVar"} <= set(empiarfs.__all__)


def test_a_keyword_precedes_the_environment_and_the_file(environment: Apache, tmp_path: Path) -> None:
    """An archive has the settings of the command line, except for those of its keywords."""
    (tmp_path / "empiarfs").mkdir()
    (tmp_path / "empiarfs" / "config.toml").write_text('cache_size = "3G"\nmemory_cache_size = "64M"')
    with empiarfs.open_archive(cache_size=2**30, max_connections=3) as archive:
        assert isinstance(archive.recipe, api.Recipe)
        assert archive.recipe.settings == Settings(
            base_url=environment.url, cache_dir=tmp_path / "cache", memory_cache_size=16 * 2**20, no_ftp=True,
            cache_size=2**30, max_connections=3,
        )  # fmt: skip
        assert archive.counters().disk_limit_bytes == 2**30
    assert from_keywords({}).cache_size == 3 * 2**30


def test_a_keyword_may_be_a_value_or_text(environment: Apache) -> None:
    """Numbers, switches and paths are used as they are, text as on the command line, None as not given."""
    chosen = from_keywords(
        {"patience": 1.5, "offline": False, "cache_dir": Path("/one"), "cache_size": "2G", "base_url": None}
    )
    assert (chosen.patience, chosen.cache_dir, chosen.cache_size) == (1.5, Path("/one"), 2 * 2**30)
    assert chosen.base_url == environment.url


def test_a_switch_that_is_off_precedes_the_environment(
    environment: Apache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`offline=False` applies whatever the environment says."""
    monkeypatch.setenv("EMPIARFS_OFFLINE", "1")
    assert from_keywords({}).offline
    assert not from_keywords({"offline": False}).offline


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"cache_size": "50X"}, "^cache_size: '50X' is not a size"),
        ({"cache_size": -1}, "^cache_size: '-1' is not a size"),
        ({"max_connections": 13}, "^max_connections: '13' is not a whole number from 1 to 12"),
        ({"max_connections": True}, "^max_connections: 'True' is not"),
        ({"cache_dir": [1]}, r"^cache_dir: \[1\] is not a setting"),
        ({"cachesize": "1G"}, "^cachesize: there is no such setting; cache_size is one"),
        ({"zzz": 1}, "^zzz: there is no such setting; there are base_url, "),
        ({"only": "10028/data"}, "^only: '10028/data' is not an entry"),
        ({"only": ["10028", "x"]}, "^only: 'x' is not an entry"),
        ({"only": -1}, "^only: '-1' is not an entry"),
    ],
)
def test_a_bad_setting_is_named(environment: Apache, keywords: dict[str, object], message: str) -> None:
    """An invalid name or value raises a BadSetting that names it, and nothing is opened."""
    with pytest.raises(empiarfs.BadSetting, match=message):
        empiarfs.open_archive(**keywords)  # type: ignore[arg-type]
    assert not Path(os.environ["EMPIARFS_CACHE_DIR"]).exists()


@pytest.mark.parametrize("only", [10100, "10100", "EMPIAR-10100", ["10100", "empiar://10100"], (10100,)])
def test_an_archive_may_show_some_entries_only(environment: Apache, only: object) -> None:
    """Entries are given in any form, one or several, and each counts once."""
    with empiarfs.open_archive(only=only) as archive:  # type: ignore[arg-type]
        assert [node.path for node in archive.listdir("")] == ["10100"]
        with pytest.raises(empiarfs.NotFound):
            archive.stat("10028")


def test_a_process_has_one_default_archive(environment: Apache) -> None:
    """The default archive is opened once, at its first use, by threads that use it at the same time."""
    barrier = threading.Barrier(8)

    def ask(_: int) -> empiarfs.Archive:
        barrier.wait()
        return empiarfs.default_archive()

    with ThreadPoolExecutor(8) as pool:
        archives = set(pool.map(ask, range(8)))
    assert archives == {empiarfs.default_archive()}
    assert empiarfs.default_archive().counters().base_url == environment.url


def test_a_bad_environment_is_named_when_the_default_archive_is_needed(
    environment: Apache, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """An invalid variable raises BadSetting, and once it is corrected the archive opens."""
    monkeypatch.setenv("EMPIARFS_CACHE_SIZE", "lots")
    with pytest.raises(empiarfs.BadSetting, match=r"^EMPIARFS_CACHE_SIZE: 'lots'"):
        empiarfs.open(PATH)
    monkeypatch.setenv("EMPIARFS_CACHE_SIZE", "1G")
    assert empiarfs.open(PATH).read(10) == content[:10]


def test_the_default_archive_can_be_set(environment: Apache, content: bytes) -> None:
    """Another archive replaces the default one; after None, or after a close, it is opened again."""
    with empiarfs.open_archive(only=10100) as archive:
        empiarfs.set_default(archive)
        assert empiarfs.default_archive() is archive
        empiarfs.set_default(None)
        default = empiarfs.default_archive()
        assert default is not archive
        default.close()
        assert empiarfs.default_archive() is not default
        assert empiarfs.open(PATH).read(10) == content[:10]


def test_files_are_opened_by_every_form_of_their_path(environment: Apache, content: bytes) -> None:
    """Every form of a path in the archive opens the same file."""
    for source in (
        PATH, f"EMPIAR-{PATH}", f"empiar-{PATH}", f"empiar://{PATH}", f"empiar://EMPIAR-{PATH}",
        f"{environment.url}/{PATH}", Path(PATH),
    ):  # fmt: skip
        file = empiarfs.open(source)
        assert isinstance(file, empiarfs.ArchiveFile)
        assert (file.name, file.size, file.read(10)) == (PATH, len(content), content[:10])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://example.org/10028/a.mrc", "neither below"),
        ("s3://bucket/a.mrc", "is not a URL in EMPIAR"),
        ("10028/../../a.mrc", "must not contain '..'"),
    ],
)
def test_a_source_elsewhere_is_a_value_error(environment: Apache, source: str, message: str) -> None:
    """A URL of another server raises a ValueError that says what is wrong."""
    with pytest.raises(ValueError, match=message):
        empiarfs.open(source)


def test_a_missing_file_or_directory_does_not_open(environment: Apache) -> None:
    """The errors are both Python's and the archive's."""
    with pytest.raises(FileNotFoundError):
        empiarfs.open("10100/data/none")
    with pytest.raises(IsADirectoryError):
        empiarfs.open("10100/data")


def test_a_local_file_is_opened_directly(
    environment: Apache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that does not begin with an entry is local, opened unbuffered without an archive."""
    (tmp_path / "10028").mkdir()
    (tmp_path / "10028" / "a.txt").write_bytes(b"local")
    (tmp_path / "b.txt").write_bytes(b"local")
    monkeypatch.chdir(tmp_path)
    for source in (tmp_path / "b.txt", "b.txt", "./10028/a.txt", f"{tmp_path}/10028/a.txt"):
        with empiarfs.open(source) as file:
            assert isinstance(file, io.FileIO)
            assert file.read() == b"local"
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        empiarfs.open("none.txt")
    assert environment.requests() == []
    assert not Path(os.environ["EMPIARFS_CACHE_DIR"]).exists()


def test_a_file_on_a_mount_is_read_from_the_archive(
    environment: Apache, mount: Mounts, content: bytes, tmp_path: Path
) -> None:
    """A file on a mount, by accession or through a link, is read from the archive and not through the kernel."""
    path = mount().path
    (tmp_path / "link").symlink_to(path / "10100")
    for source in (path / PATH, path / f"EMPIAR-{PATH}", tmp_path / "link" / "data" / "random.bin"):
        file = empiarfs.open(source)
        assert isinstance(file, empiarfs.ArchiveFile)
        assert file.name == PATH
        assert file.read(10) == content[:10]
    with empiarfs.open(path / ".empiarfs-status") as status:
        assert isinstance(status, io.FileIO)
    with pytest.raises(FileNotFoundError, match=str(path)):
        empiarfs.open(path / "10100" / "none")


def test_a_file_on_a_mount_of_another_archive_is_read_there(
    environment: Apache, mount: Mounts, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file on a mount of another archive than the default one is read from the mount."""
    monkeypatch.setenv("EMPIARFS_BASE_URL", "http://127.0.0.1:9/elsewhere")
    with empiarfs.open(mount().path / PATH) as file:
        assert isinstance(file, io.FileIO)
        assert file.read(10) == content[:10]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.promise(
    "A file that `empiarfs.open` or an archive of `empiarfs.open_archive` opened goes on in the child with an "
    "archive of the child's own, and can be sent to any process."
)
def test_workers_read_files_that_are_sent_to_them(
    environment: Apache, content: bytes, method: str, tmp_path: Path
) -> None:
    """Each worker reads with its default archive, and a file that a child inherits keeps its position."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = python(program, method, PATH)
    assert done.stderr == b""
    first, parts = pickle.loads(done.stdout)  # noqa: S301 - our own
    offsets = [0, 3000, 300_000, *([1000] if method == "fork" else [])]
    assert first == content[:1000]
    assert parts == [(content[offset : offset + 1000], offset + 1000, True) for offset in offsets]


def test_the_child_of_a_fork_has_the_default_archive_of_its_parent(environment: Apache) -> None:
    """A child opens its own with the same settings, or gets Closed; no lock stays held."""
    done = python("-c", FORKS, PATH)
    assert done.stdout == b"0\n0\n0\n"
    assert done.stderr == b""


@pytest.mark.promise("It stays the same version.")
def test_a_file_that_was_sent_stays_the_same_version(
    environment: Apache, own_apache: Apache, small_tree: Path
) -> None:
    """If the file has changed at the server meanwhile, the copy raises Stale and reads no byte."""
    with empiarfs.open_archive(base_url=own_apache.url) as archive:
        sent = pickle.dumps(archive.open("10028/data/a.txt"))
        (small_tree / "10028" / "data" / "a.txt").write_text("another text")
        copy = pickle.loads(sent)  # noqa: S301 - our own
        with pytest.raises(empiarfs.Stale):
            copy.read()


def test_an_archive_that_is_not_the_default_pickles_as_its_settings(environment: Apache, content: bytes) -> None:
    """What is unpickled has the same settings and entries, and is opened once."""
    with empiarfs.open_archive(only=10100, max_connections=2) as archive:
        sent = pickle.dumps([archive, archive.open(PATH)])
        other, file = pickle.loads(sent)  # noqa: S301 - our own
        assert other.recipe == archive.recipe
        assert other is not archive
        assert other.counters().connections_limit == 2
        assert file.read(10) == content[:10]
        assert pickle.loads(sent)[0] is other  # noqa: S301 - our own
        assert pickle.loads(sent)[1]._archive is other  # noqa: S301 - our own


def test_what_is_unpickled_uses_the_default_archive_of_the_same_settings(environment: Apache) -> None:
    """A worker with a default archive opens no second one for files that are sent to it."""
    with empiarfs.open_archive(only=10100) as archive:
        empiarfs.set_default(archive)
        assert pickle.loads(pickle.dumps(archive)) is archive  # noqa: S301 - our own


def test_a_file_of_a_closed_archive_does_not_read(environment: Apache) -> None:
    """A file of a closed archive does not continue with another archive."""
    with closing(empiarfs.open_archive()) as archive:
        file = archive.open(PATH)
    with pytest.raises(OSError, match=r"closed|Closed"):
        file.read(10)
