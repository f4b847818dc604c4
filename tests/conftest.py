"""A tree, an Apache that serves it, mounts of it, and servers that a test scripts."""

import shutil
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from support import sandbox
from support.apache import Apache
from support.fault_proxy import FaultProxy
from support.fixture_tree import FixtureTree
from support.mounting import BINDINGS, Mount, Mounts
from support.scripted import ScriptedServer, Website

hypothesis_settings.register_profile("empiarfs", deadline=None)  # a busy machine is no fault of ours
hypothesis_settings.load_profile("empiarfs")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take `--long`."""
    parser.addoption("--long", action="store_true", help="go on for as long as it takes to meet what is rare")


@pytest.fixture(scope="session")
def how_long(pytestconfig: pytest.Config) -> Callable[[int, int], int]:
    """Returns the first of two numbers, or with `--long` the second."""
    return lambda short, long: long if pytestconfig.getoption("long") else short


def pytest_configure(config: pytest.Config) -> None:
    """Name our markers; end with one line where no test of a mount could run.

    Raises:
        pytest.UsageError: root cannot have mounts of its own here.
    """
    if lack := sandbox.lack():
        raise pytest.UsageError(lack)
    config.addinivalue_line("markers", "root: changes what root alone may change; not collected for others")
    config.addinivalue_line("markers", "slow: waits on purpose or repeats for long; not for --quick")
    config.addinivalue_line("markers", "promise(text): keeps what SEMANTICS.md promises in these words")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, visibly, what an ordinary user cannot try; everything else runs or fails."""
    if sandbox.me().name == "root":
        return
    left_out = [item for item in items if item.get_closest_marker("root")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def own_machine() -> None:
    """A mount namespace for the tests; see `sandbox`."""
    sandbox.make_private()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """An empty directory that every user can reach, unlike pytest's."""
    yield from _open_folder()


def _open_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="empiarfs-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def tree() -> Iterator[FixtureTree]:
    """The tree that `apache` serves; nothing changes it."""
    for folder in _open_folder():
        yield FixtureTree(folder)


@pytest.fixture(scope="session")
def apache(tree: FixtureTree) -> Iterator[Apache]:
    """An Apache that serves `tree`; each test finds its list of requests empty."""
    server = Apache(tree.root, closed=["10400/closed"])
    yield server
    server.close()


@pytest.fixture
def small_tree(open_folder: Path) -> Path:
    """A small tree that a test may change: 10028/data with a.txt, b.txt and c.txt."""
    for name in ("a.txt", "b.txt", "c.txt"):
        file = open_folder / "10028" / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return open_folder


@pytest.fixture
def own_apache(small_tree: Path) -> Iterator[Apache]:
    """An Apache for one test, which serves `small_tree`."""
    server = Apache(small_tree)
    yield server
    server.close()


@pytest.fixture
def fault_proxy(apache: Apache) -> Iterator[FaultProxy]:
    """A server before `apache` that causes faults."""
    server = FaultProxy(apache.url)
    yield server
    server.close()


@pytest.fixture
def mount(own_machine: None, apache: Apache) -> Iterator[Mounts]:
    """Makes mounts of `apache`; takes them down, and fails the test if anything is left or was logged."""
    yield from _mounts(apache, 90)


@pytest.fixture
def lasting_mount(own_machine: None, apache: Apache, how_long: Callable[[int, int], int]) -> Iterator[Mounts]:
    """The same for long tests."""
    yield from _mounts(apache, how_long(300, 36_000))


def _mounts(apache: Apache, seconds: float) -> Iterator[Mounts]:
    for folder in _open_folder():
        mounts = Mounts(folder, apache.url)
        apache.clear()
        with mounts.watched(seconds):
            yield mounts
        mounts.finish()


@pytest.fixture(scope="session")
def shared_mounts(own_machine: None, apache: Apache) -> Iterator[Callable[[str, str], Mount]]:
    """Returns the one mount of a binding and a user that all tests share which only read."""
    made: dict[tuple[str, str], Mount] = {}
    mounts = Mounts(Path(tempfile.mkdtemp(prefix="empiarfs-")), apache.url)
    mounts.folder.chmod(0o755)

    def shared(binding: str, user: str) -> Mount:
        if (binding, user) not in made:
            made[binding, user] = mounts(binding=binding, user=user)
        return made[binding, user]

    yield shared
    mounts.finish()


@pytest.fixture(params=[f"{binding}-{user}" for binding in BINDINGS for user in sandbox.users()])
def mounted(request: pytest.FixtureRequest, shared_mounts: Callable[[str, str], Mount]) -> Mount:
    """The tree, mounted by both bindings, as root and as an ordinary user; shared, and only to be read."""
    binding, user = request.param.split("-")
    return shared_mounts(binding, user)


@pytest.fixture(params=BINDINGS)
def binding(request: pytest.FixtureRequest) -> str:
    """Both FUSE bindings, one after the other."""
    return str(request.param)


@pytest.fixture(params=sandbox.users())
def user(request: pytest.FixtureRequest) -> str:
    """Root and an ordinary user, one after the other; an ordinary user alone where root does not run the tests."""
    return str(request.param)


@pytest.fixture
def website() -> Website:
    """The site that `server` serves: an empty one; a module of tests has its own instead."""
    return Website({})


@pytest.fixture
def tls() -> ssl.SSLContext | None:
    """The certificate that `server` shows: none, it does not encrypt; a module of tests has its own instead."""
    return None


@pytest.fixture
def server(website: Website, tls: ssl.SSLContext | None) -> Iterator[ScriptedServer]:
    """A server of `website`, until a test gives it another answer."""
    with ScriptedServer(website, tls) as server:
        yield server
