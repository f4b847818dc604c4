"""What is in a mount: names, kinds, attributes."""

# what runs in a child speaks to the kernel as plainly as it can
# ruff: noqa: PTH114, PTH116, PTH118, PTH119, PTH121, PTH208

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from support.apache import Apache
from support.fault_proxy import FaultProxy
from support.fixture_tree import DEEP, NAMES, FixtureTree, listed
from support.mounting import Account, Mount, Mounts
from support.programs import names

ENTRIES = ["10001", "10002", "10028", "10100", "10200", "10300", "10400"]


def error_of(call: str, path: str) -> int:
    """Return the errno of `call` on `path`; 0 where it works."""
    try:
        match call:
            case "list":
                os.listdir(path)
            case "stat":
                os.stat(path)
            case "open":
                os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        return error.errno or -1
    return 0


def attributes(root: str) -> dict[str, dict[str, int]]:
    """Return the attributes of everything below `root`, by path."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            fields = [field for field in dir(status) if field.startswith("st_")]
            found[os.path.relpath(path, root)] = {field: int(getattr(status, field)) for field in fields}
    return found


@pytest.mark.promise("The root holds the entries as numbers.")
def test_root_lists_the_entries_alone(mounted: Mount) -> None:
    """The root lists every entry by its number, and nothing else that the server has there."""
    assert mounted.call(names, mounted.path) == ENTRIES


@pytest.mark.promise("A directory shows what the server lists.")
@pytest.mark.promise("Two names that differ are two files; bytes that are not UTF-8 come through unchanged.")
def test_every_legal_name_is_listed(mounted: Mount, tree: FixtureTree) -> None:
    """A directory lists exactly the names that the server lists, whatever their bytes are."""
    assert mounted.call(names, mounted / "10001/data") == listed(tree.root / "10001/data")


@pytest.mark.promise("Two names that differ are two files; bytes that are not UTF-8 come through unchanged.")
def test_every_legal_name_opens(mounted: Mount) -> None:
    """A file whose name has any legal bytes opens and has its content."""

    def contents(folder: str, names: list[str]) -> list[bytes]:
        return [Path(folder, name).read_bytes() for name in names]

    found = mounted.call(contents, mounted / "10001/data", list(NAMES))
    assert found == [os.fsencode(name) * 3 for name in NAMES]


def test_a_page_of_preformatted_text_lists_the_same(mount: Mounts, tree: FixtureTree) -> None:
    """A listing as preformatted text, with names cut to 23 characters, shows the same names."""
    server = Apache(tree.root, pre=True)
    try:
        made = mount("10001", base_url=server.url)
        assert made.call(names, made / "10001/data") == listed(tree.root / "10001/data")
    finally:
        server.close()


@pytest.mark.promise("A trailing slash in the listing, and nothing else, makes a directory.")
def test_a_trailing_slash_alone_makes_a_directory(mounted: Mount) -> None:
    """A directory with the name of an image is a directory."""
    assert mounted.call(names, mounted / "10001/data/TS_016.mrc") == ["inside.mrc"]


def test_the_tree_is_deep(mounted: Mount) -> None:
    """A file ten directories deep is found, whether its parents were listed or not."""
    assert mounted.call(error_of, "open", mounted / f"10001/data/{DEEP}/bottom.txt") == 0
    assert mounted.call(names, mounted / f"10001/data/{DEEP}") == ["bottom.txt"]


def test_an_empty_directory_is_empty(mounted: Mount) -> None:
    """A directory without entries lists none."""
    assert mounted.call(names, mounted / "10001/data/empty") == []


@pytest.mark.parametrize("path", ["10001", "10001/data/empty", "10001/data/deep/2"])
def test_a_directory_shows_itself_and_its_parent(mounted: Mount, path: str) -> None:
    """The first two names of a directory are `.` and `..`, with the inode numbers of what they stand for."""

    def own(path: str) -> list[list[str]]:
        return [[str(os.stat(f"{path}/{name}").st_ino), name] for name in (".", "..")]

    lines = mounted.run("ls", "-aiU1", mounted / path).stdout.decode().splitlines()
    assert [line.split() for line in lines[:2]] == mounted.call(own, mounted / path)


def test_the_root_shows_itself_and_its_parent(mounted: Mount) -> None:
    """`ls -a` of the mount point begins with `.` and `..` too."""
    assert mounted.run("ls", "-a", mounted.path).stdout.decode().splitlines() == [".", "..", *ENTRIES]


def test_an_entry_that_is_not_listed_is_found_by_its_number(mount: Mounts, fault_proxy: FaultProxy) -> None:
    """An entry that the server has and the listing omits is found by its number."""

    def without(page: bytes) -> bytes:
        return b"\n".join(line for line in page.split(b"\n") if b"10002" not in line)

    with fault_proxy.edit("", without):
        made = mount(base_url=fault_proxy.url)
        assert "10002" not in made.call(names, made.path)
        assert made.call(names, made / "10002") == ["10002.xml"]


@pytest.mark.promise(
    "`EMPIAR-10028`, in any case, is the same directory as `10028`, with the same inode numbers and one cache; it "
    "is not listed."
)
@pytest.mark.parametrize("name", ["EMPIAR-10028", "empiar-10028", "Empiar-10028"])
def test_an_accession_is_its_entry(mounted: Mount, name: str) -> None:
    """EMPIAR-10028, in any case, is the directory 10028, and no link to it."""

    def same(root: str, name: str) -> tuple[bool, bool, list[str]]:
        path = f"{root}/{name}"
        return os.path.samefile(path, f"{root}/10028"), os.path.islink(path), os.listdir(path)

    assert mounted.call(same, mounted.path, name) == (True, False, ["data"])


@pytest.mark.promise(
    "`EMPIAR-10028`, in any case, is the same directory as `10028`, with the same inode numbers and one cache; it "
    "is not listed."
)
def test_accessions_are_not_listed(mounted: Mount) -> None:
    """An accession that was used does not show up in the listing of the root."""
    assert mounted.call(error_of, "stat", mounted / "EMPIAR-10028") == 0
    assert mounted.call(names, mounted.path) == ENTRIES


@pytest.mark.parametrize("path", ["EMPIAR-99999", "EMPIAR-", "EMPIAR-x", "10028/EMPIAR-10028", "EMPIAR-10028x"])
def test_an_accession_that_is_none_does_not_exist(mounted: Mount, path: str) -> None:
    """An accession without an entry, or anywhere but at the root, does not exist."""
    assert mounted.call(error_of, "stat", mounted / path) == errno.ENOENT


@pytest.mark.promise("A mount of some entries shows these alone.")
def test_a_mount_of_some_entries_shows_only_those(mount: Mounts, apache: Apache) -> None:
    """A mount of selected entries shows those alone, and sends no request for others."""
    made = mount("10028", "EMPIAR-10100")
    apache.clear()
    assert made.call(names, made.path) == ["10028", "10100"]
    for path in ("10001", "EMPIAR-10001", "10002/10002.xml"):
        assert made.call(error_of, "stat", made / path) == errno.ENOENT
    assert made.call(names, made / "EMPIAR-10100") == ["data"]
    assert not apache.requests(path="(?!10100).*")


@pytest.mark.promise("A directory that the server does not list (403) is `EACCES`; files in it open by name.")
def test_a_directory_without_listing_says_so(mounted: Mount) -> None:
    """Listing a forbidden directory (403) fails with EACCES, and its files can be opened."""
    mounted.expect("10400/closed")
    assert mounted.call(error_of, "list", mounted / "10400/closed") == errno.EACCES
    assert mounted.call(error_of, "open", mounted / "10400/closed/known.txt") == 0


@pytest.mark.promise("A file used as a directory is `ENOTDIR`, a directory read as a file is `EISDIR`.")
@pytest.mark.parametrize(
    ("call", "path", "number"),
    [
        ("stat", "10001/data/no such file", errno.ENOENT),
        ("list", "10001/data/no such folder", errno.ENOENT),
        ("open", "10001/nowhere/at/all", errno.ENOENT),
        ("stat", "99999", errno.ENOENT),
        ("stat", "notes.txt", errno.ENOENT),
        ("stat", "lost+found", errno.ENOENT),
        ("list", "10001/data/plain.mrc", errno.ENOTDIR),
        ("stat", "10001/data/plain.mrc/below", errno.ENOTDIR),
        ("stat", "10001/data/" + "x" * 256, errno.ENAMETOOLONG),
    ],
)
def test_what_is_not_there_says_why(mounted: Mount, call: str, path: str, number: int) -> None:
    """A call on a missing path, or on a path of the wrong type, fails with the usual errno."""
    assert mounted.call(error_of, call, mounted / path) == number


@pytest.mark.promise("`st_size` is exact.")
@pytest.mark.promise("`st_blocks` counts the whole file, cached or not.")
@pytest.mark.promise("`st_mtime` is the server's Last-Modified.")
@pytest.mark.promise(
    "Files are 0644, directories 0755, all owned by the user who mounted: a copy has these modes, and its "
    "owner can overwrite and delete it."
)
@pytest.mark.promise("`st_blksize` is 4096.")
def test_attributes_are_those_of_the_server(mounted: Mount, tree: FixtureTree) -> None:
    """A file has its exact size and date and mode 0644, a directory 0755, and both belong to the mounting user."""
    owner = mounted.account.user
    for entry in ("10001", "10028", "10100", "10200"):
        found = mounted.call(attributes, mounted / entry)
        shown = {path for path in found if "." not in os.path.basename(path)[:1]}
        assert shown == set(found)
        for path, fields in found.items():
            truth = (tree.root / entry / path).lstat()
            assert (fields["st_uid"], fields["st_gid"]) == (owner.uid, owner.gid), path
            assert fields["st_blksize"] == 4096
            if stat.S_ISDIR(truth.st_mode):
                assert fields["st_mode"] == stat.S_IFDIR | 0o755
                continue
            assert fields["st_mode"] == stat.S_IFREG | 0o644
            assert fields["st_size"] == truth.st_size, path
            assert fields["st_mtime"] == int(truth.st_mtime), path
            assert fields["st_nlink"] == 1
            assert fields["st_blocks"] == -(-truth.st_size // 512)


@pytest.mark.promise("Inode numbers are the same at every mount.")
def test_inode_numbers_outlive_a_mount(mount: Mounts, binding: str) -> None:
    """Every path has its own inode number, the same at the next mount and in the listing."""

    def numbers(root: str) -> dict[str, int]:
        found = {}
        for folder, _, _ in os.walk(root):
            for entry in os.scandir(folder):
                assert entry.inode() == os.lstat(entry.path).st_ino, entry.path
                found[os.path.relpath(entry.path, root)] = entry.inode()
        return found

    account = mount.account(binding=binding)
    before = mount("10001", account=account)
    first = before.call(numbers, before.path)
    before.umount()
    after = mount("10001", account=Account(account.user, mount.account().home, binding))
    assert after.call(numbers, after.path) == first
    assert len(set(first.values())) == len(first) > len(NAMES)


@pytest.mark.promise("`statfs` shows 10 PiB, none of it free.")
def test_the_file_system_has_a_sane_size(mounted: Mount) -> None:
    """`statfs` reports a large read-only file system without free space, and names of up to 255 bytes."""

    def size(path: str) -> dict[str, int]:
        found: Any = os.statvfs(path)
        return {field: getattr(found, field) for field in dir(found) if field.startswith("f_")}

    found = mounted.call(size, mounted.path)
    assert found["f_blocks"] * found["f_frsize"] > 2**50
    assert (found["f_bavail"], found["f_bfree"], found["f_namemax"]) == (0, 0, 255)
    assert found["f_flag"] & os.ST_RDONLY
    assert mounted.run("df", "-h", mounted.path).returncode == 0
