"""The life of a mount: how it begins, how it ends, and the message when it cannot be made."""

# what runs in a child speaks to the kernel as plainly as it can

import errno
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import sandbox
from support.apache import Apache
from support.fault_proxy import FaultProxy
from support.fixture_tree import RANDOM
from support.mounting import DEADLINE, Account, Mount, Mounts, eventually, pairwise
from support.programs import length, names


def refusal(done: "subprocess.CompletedProcess[bytes]") -> str:
    """Check that a command fails with one line; return it."""
    text = done.stderr.decode()
    assert done.returncode != 0, text
    assert "Traceback" not in text
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("Error: "), text
    return lines[0]


def test_mount_returns_when_the_mount_answers(mount: Mounts, binding: str, user: str) -> None:
    """`empiarfs mount` creates the directory, prints nothing, and returns when the mount answers."""
    account = mount.account(user, binding)
    made = mount(account=account, path=account.home / "made" / "on the way" / "Grüße")
    assert made.started is not None
    assert (made.started.stdout, made.started.stderr) == (b"", b"")
    assert "10028" in made.call(names, made.path)
    made.umount()
    assert made.path.is_dir()


def test_the_web_page_of_an_entry_names_it(mount: Mounts, user: str) -> None:
    """`empiarfs mount` accepts the address of an entry's web page and shows that entry alone."""
    made = mount("https://www.ebi.ac.uk/empiar/EMPIAR-10028/", user=user)
    assert made.call(names, made.path) == ["10028"]


def test_a_mount_point_may_be_relative(mount: Mounts) -> None:
    """A relative mount point is resolved from the working directory."""
    account = mount.account()
    made = mount.prepare(account, account.home / "here")
    words = ("mount", f"--base-url={mount.base_url}", f"--log-file={made.log_file}", "here", "10028")
    assert account.empiarfs(*words, cwd=account.home).returncode == 0
    assert made.call(names, made.path) == ["10028"]
    assert account.empiarfs("umount", "./here", cwd=account.home).returncode == 0
    made.see_gone()


def test_what_goes_wrong_in_the_daemon_reaches_the_shell(mount: Mounts, binding: str) -> None:
    """When libfuse or fusermount refuses an option, `empiarfs mount` fails with its message."""
    made = mount.prepare(mount.account(binding=binding))
    words = refusal(mount.command(made, flags=["-o", "context=nonsense"]))
    assert re.search("mount failed: Invalid argument|unknown option 'context=nonsense'", words)
    made.see_gone()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_foreground_stays_until_a_signal(mount: Mounts, binding: str, number: signal.Signals) -> None:
    """With `--foreground` the program stays, and exits with 0 on SIGINT or SIGTERM."""
    made = mount.prepare(mount.account(binding=binding))
    process = made.start(
        sys.executable, "-m", "empiarfs", "mount", "--foreground", f"--base-url={mount.base_url}", made.path,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    eventually(made.is_mounted, "the mount")
    assert "10028" in made.call(names, made.path)
    assert made.daemon() == process.pid
    process.send_signal(number)
    _, words = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, words
    assert b"Traceback" not in words
    made.see_gone()


@pytest.mark.promise(
    "Only the user who mounted has access, and not even root, unless `--allow-other` gives access to everyone."
)
def test_an_ordinary_users_mount_is_the_users_alone(mount: Mounts, user: str) -> None:
    """A mount without --allow-other is closed to others."""
    made = mount(user=user)
    if os.geteuid() == 0:
        other = mount.account("root" if user == "user" else "user")
        assert other.call(length, made / "10028/data/stack.mrcs") == -errno.EACCES


@pytest.mark.promise(
    "Only the user who mounted has access, and not even root, unless `--allow-other` gives access to everyone."
)
@pytest.mark.root
def test_allow_other_lets_others_in(mount: Mounts, user: str, binding: str) -> None:
    """With `--allow-other` another user can read, where /etc/fuse.conf permits it."""
    account = mount.account(user, binding)
    account.home.chmod(0o755)
    made = mount(account=account, flags=["--allow-other"])
    other = mount.account("root" if user == "user" else "user")
    assert other.call(length, made / "10100/data/1.bin") == 1


@pytest.mark.root
def test_allow_other_needs_the_administrator(mount: Mounts) -> None:
    """Where /etc/fuse.conf does not permit it, `--allow-other` fails and names the line that is missing."""
    made = mount.prepare(mount.account("user"))
    before = sandbox.FUSE_CONFIG.read_text()
    sandbox.FUSE_CONFIG.write_text("")
    try:
        line = refusal(mount.command(made, flags=["--allow-other"]))
    finally:
        sandbox.FUSE_CONFIG.write_text(before)
    assert "user_allow_other" in line
    assert "/etc/fuse.conf" in line


@pytest.mark.parametrize(("number", "binding", "user"), pairwise([signal.SIGINT, signal.SIGTERM]))
def test_a_signal_unmounts(mount: Mounts, binding: str, user: str, number: signal.Signals) -> None:
    """On SIGINT or SIGTERM the daemon unmounts and ends."""
    made = mount(user=user, binding=binding)
    made.call(names, made.path)
    os.kill(made.daemon(), number)
    made.see_gone()


@pytest.mark.promise("A read that waits when the mount ends gets an error, never bytes.")
@pytest.mark.parametrize(("number", "binding", "user"), pairwise([signal.SIGINT, signal.SIGTERM]))
def test_a_signal_unmounts_in_the_middle_of_a_read(
    mount: Mounts, fault_proxy: FaultProxy, binding: str, user: str, number: signal.Signals
) -> None:
    """A signal ends the mount while a read waits for a silent server, and the read fails."""
    made = mount(base_url=fault_proxy.url, user=user, binding=binding, env={"EMPIARFS_PATIENCE": "90"})
    made.expect("went silent|retrying|was closed|no reply|connection was lost|refuses connections")
    with fault_proxy.hold(RANDOM, method="GET") as rule:
        _, answer = made.calling(length, made / RANDOM)
        eventually(lambda: rule.waiting, "the read is stuck")
        os.kill(made.daemon(), number)
        made.see_gone()
        assert answer(DEADLINE) < 0


@pytest.mark.parametrize(("program", "binding", "user"), pairwise(["empiarfs", "fusermount3"]))
def test_umount_ends_the_daemon(mount: Mounts, binding: str, user: str, program: str) -> None:
    """`empiarfs umount` and `fusermount3 -u` unmount, and the daemon ends."""
    made = mount(user=user, binding=binding)
    if program == "empiarfs":
        made.umount()
    else:
        assert made.run("fusermount3", "-u", made.path).returncode == 0
    made.see_gone()


@pytest.mark.promise(
    "When the daemon is killed, every call is `ENOTCONN` until `empiarfs umount`, or the next `empiarfs mount` "
    "there."
)
@pytest.mark.parametrize(("then", "binding", "user"), pairwise(["mount", "umount"]))
def test_a_dead_mount_is_cleaned(mount: Mounts, binding: str, user: str, then: str) -> None:
    """A mount whose daemon was killed is removed by the next `mount` on its mount point, and by `umount`."""
    account = mount.account(user, binding)
    made = mount("10100", account=account)
    os.kill(made.daemon(), signal.SIGKILL)
    eventually(lambda: not made.daemons(), "the daemon is dead")
    assert made.call(length, made / RANDOM) == -errno.ENOTCONN
    if then == "umount":
        made.umount()
        return
    again = mount("10100", account=account, path=made.path)
    assert len(sandbox.mounted(again.path)) == 1
    assert again.call(length, again / "10100/data/1.bin") == 1


@pytest.mark.promise("A mount that a program uses is not unmounted, except with `--lazy`.")
def test_umount_of_a_mount_in_use_says_so(mount: Mounts, user: str) -> None:
    """`umount` of a mount in use fails, and the message names `--lazy`."""
    made = mount(user=user)
    holder = made.start("sh", "-c", f"cd '{made.path}' && echo in && exec sleep 60", stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"in\n"
    line = refusal(made.account.empiarfs("umount", made.path))
    assert "in use" in line
    assert "--lazy" in line
    assert made.is_mounted()
    assert made.account.empiarfs("umount", "--lazy", made.path).returncode == 0
    assert not made.is_mounted()
    holder.kill()
    made.see_gone()


def someone(mount: Mounts, name: str) -> Account:
    """Return an account for the user `name` of this machine, with a home."""
    known = pwd.getpwnam(name)
    home = Path(tempfile.mkdtemp(prefix="home-", dir=mount.folder))
    return Account(sandbox.User(name, known.pw_uid, known.pw_gid), home, "mfusepy")


@pytest.mark.root
@pytest.mark.parametrize("flags", [[], ["--lazy"]])
@pytest.mark.parametrize("name", ["root", "bin"])
def test_umount_of_another_users_mount_names_its_owner(mount: Mounts, name: str, flags: list[str]) -> None:
    """`umount` of another user's mount fails, and the message names the owner and the command for root."""
    made = mount("10028", account=someone(mount, name))
    other = someone(mount, "daemon")
    line = refusal(other.empiarfs("umount", *flags, made.path))
    assert line == f"Error: {made.path} belongs to {name}: sudo empiarfs umount {made.path}"
    assert made.is_mounted()
    assert mount.account("root").empiarfs("umount", made.path).returncode == 0
    made.see_gone()


def test_a_daemon_that_outlives_a_lazy_umount_is_named(mount: Mounts, user: str) -> None:
    """A mount where an earlier daemon still serves programs fails and names it, and works after its end."""
    made = mount("10028", user=user)
    daemon = made.daemon()
    holder = made.start("sh", "-c", f"cd '{made.path}' && echo in && exec sleep 60", stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"in\n"
    assert made.account.empiarfs("umount", "--lazy", made.path).returncode == 0
    again = mount.prepare(made.account, made.path)
    assert refusal(mount.command(again, "10100")) == (
        f"Error: process {daemon} still serves an earlier mount on {made.path}: programs use it (umount --lazy), "
        f"or a container or sandbox has a copy of it (unshare --mount); end it: kill {daemon}"
    )
    assert made.run("sh", "-c", f"kill {daemon}").returncode == 0
    assert mount.command(again, "10100").returncode == 0
    assert again.call(names, again.path) == ["10100"]
    assert again.daemon() != daemon


def test_a_mount_that_is_under_way_is_named(mount: Mounts) -> None:
    """Where another process is about to mount, the message names that process."""
    made = mount.prepare(mount.account("user"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        first = made.start(
            sys.executable, "-m", "empiarfs", "mount", "--foreground", f"--base-url={url}", made.path,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        asking, _ = silent.accept()  # it wants the entries, and has not mounted
        with asking:
            first.send_signal(signal.SIGSTOP)
            line = refusal(mount.command(made, "10028"))
            first.kill()
    assert (
        line == f"Error: process {first.pid} is mounting on {made.path}; wait for it, or end it: kill {first.pid}"
    )


def test_umount_of_what_is_none_says_so(mount: Mounts) -> None:
    """`empiarfs umount` refuses what is not a mount of empiarfs."""
    account = mount.account()
    for place in (account.home, Path("/proc"), account.home / "nothing"):
        assert "is not a mount of empiarfs" in refusal(account.empiarfs("umount", place))


def test_a_directory_that_is_not_empty_is_refused(mount: Mounts, user: str) -> None:
    """A directory that is not empty is refused as a mount point."""
    made = mount.prepare(mount.account(user))
    made.path.mkdir()
    (made.path / "file").write_text("mine")
    assert "not empty" in refusal(mount.command(made))


def test_a_file_is_refused(mount: Mounts) -> None:
    """A file, or a path below a file, is refused as a mount point."""
    made = mount.prepare(mount.account())
    made.path.write_text("")
    assert "not a directory" in refusal(mount.command(made))
    made.path = made.path / "below"
    assert "below a file" in refusal(mount.command(made))


def test_a_second_mount_on_the_same_place_is_refused(mount: Mounts, user: str) -> None:
    """A second mount on a mount point is refused, and the first one stays."""
    made = mount("10028", user=user)
    line = refusal(mount.command(made, "10100"))
    assert "already mounted" in line
    assert "empiarfs umount" in line
    assert made.call(names, made.path) == ["10028"]
    assert len(sandbox.mounted(made.path)) == 1


@pytest.mark.root
def test_without_the_fuse_device_it_says_what_to_do(mount: Mounts, user: str) -> None:
    """Without /dev/fuse the message names the kernel module and the flags for a container."""
    made = mount.prepare(mount.account(user))
    nothing = made.account.home / "nothing"
    nothing.write_text("")
    sandbox.bind(nothing, sandbox.FUSE_DEVICE)
    try:
        line = refusal(mount.command(made))
    finally:
        sandbox.unbind(sandbox.FUSE_DEVICE)
    assert "modprobe fuse" in line
    assert "--device /dev/fuse" in line


@pytest.mark.root
def test_a_fuse_device_that_is_closed_to_users_is_named(mount: Mounts) -> None:
    """Where a user may not open /dev/fuse, the message says so."""
    made = mount.prepare(mount.account("user"))
    before = sandbox.FUSE_DEVICE.stat().st_mode
    sandbox.FUSE_DEVICE.chmod(0o600)  # the node of our own namespace
    try:
        assert "/dev/fuse" in refusal(mount.command(made))
    finally:
        sandbox.FUSE_DEVICE.chmod(before)


def test_without_fusermount_the_package_is_named(mount: Mounts, binding: str) -> None:
    """Without fusermount3 the message for an ordinary user names the package to install."""
    made = mount.prepare(mount.account("user", binding))
    line = refusal(mount.command(made, env={"PATH": "/nonexistent"}))
    assert "fusermount3" in line
    assert "apt install fuse3" in line


@pytest.mark.parametrize("place", ["/etc", "/empiarfs-test", "/proc/1/x", "/usr/lib/empiarfs-test/x"])
def test_a_place_that_is_not_the_users_is_refused(mount: Mounts, place: str) -> None:
    """A directory that the user may not use is refused, and the message names it."""
    made = mount.prepare(mount.account("user"), Path(place))
    assert place.split("/")[1] in refusal(mount.command(made))


def test_a_directory_without_write_permission_is_refused(mount: Mounts) -> None:
    """An empty directory that the user may read and not write is refused as a mount point."""
    made = mount.prepare(mount.account("user"))
    made.path.mkdir()
    made.path.chmod(0o555)
    assert "is not writable for you" in refusal(mount.command(made))


def test_an_entry_that_does_not_exist_is_refused(mount: Mounts) -> None:
    """A missing entry is refused by name, and the mount point made for it is removed."""
    made = mount.prepare(mount.account())
    assert "99999" in refusal(mount.command(made, "10028", "99999"))
    assert not made.path.exists()
    done = mount.command(made, "data")
    assert done.returncode != 0
    assert b"'data' is not an entry" in done.stderr


@pytest.mark.parametrize(
    ("flags", "env", "named"),
    [
        (["--memory-cache-size=lots"], {}, "--memory-cache-size"),
        ([], {"EMPIARFS_MAX_CONNECTIONS": "99"}, "EMPIARFS_MAX_CONNECTIONS"),
        (["-o", "rw"], {}, "read-only"),
        (["--base-url=ftp://somewhere"], {}, "web address"),
    ],
)
def test_a_wrong_setting_says_where_it_stands(
    mount: Mounts, flags: list[str], env: dict[str, str], named: str
) -> None:
    """A wrong setting is refused, and the message names its flag or variable."""
    made = mount.prepare(mount.account())
    assert named in refusal(mount.command(made, flags=flags, env=env))


def test_a_server_that_is_away_is_no_reason_not_to_mount(mount: Mounts, own_apache: Apache) -> None:
    """A mount whose server is unreachable is made with a warning, and works when the server returns."""
    own_apache.stop()
    made = mount("10028", base_url=own_apache.url)
    made.expect("refuses connections")
    assert made.started is not None
    assert b"mounted anyway" in made.started.stderr
    own_apache.start()
    assert made.call(names, made / "10028/data") == ["a.txt", "b.txt", "c.txt"]


@pytest.fixture
def helper() -> Iterator[None]:
    """The helper /sbin/mount.fuse.empiarfs, installed while the test runs."""
    file = Path("/sbin/mount.fuse.empiarfs")
    assert not file.exists(), f"{file} is there already; take it away for the tests"
    program = "from empiarfs.cli.fstab import mount_helper; mount_helper()"
    python = f'exec "{sys.executable}" -c "{program}" "$@"'
    file.write_text(f'#!/bin/sh\nPYTHONPATH="{sandbox.PROJECT}"; export PYTHONPATH\n{python}\n')
    file.chmod(0o755)
    yield
    file.unlink()


def options(made: Mount, url: str) -> str:
    """Return the text of `-o` that makes `made` independent of other mounts."""
    return f"base_url={url},log_file={made.log_file},cache_dir={made.account.home}/cache"


@pytest.mark.root
def test_mount_8_mounts(mount: Mounts, helper: None) -> None:
    """`mount -t fuse.empiarfs` mounts the entries of its source with the options of `-o`."""
    made = mount.prepare(mount.account())
    made.path.mkdir()
    words = ("-o", f"ro,noexec,allow_other,{options(made, mount.base_url)}", "10028,EMPIAR-10100", made.path)
    done = made.run("mount", "-t", "fuse.empiarfs", *words)
    assert (done.returncode, done.stderr) == (0, b"")
    assert made.call(names, made.path) == ["10028", "10100"]
    assert mount.account("user").call(length, made / "10100/data/1.bin") == -errno.EACCES  # of the home above it
    made.account.home.chmod(0o755)
    assert mount.account("user").call(length, made / "10100/data/1.bin") == 1
    assert made.run("umount", made.path).returncode == 0
    made.see_gone()


@pytest.mark.root
def test_fstab_mounts(mount: Mounts, helper: None) -> None:
    """The line of fstab in the manual mounts the whole archive."""
    made = mount.prepare(mount.account())
    made.path.mkdir()
    table = made.account.home / "fstab"
    words = f"ro,_netdev,nofail,x-systemd.automount,{options(made, mount.base_url)}"
    table.write_text(f"empiar {made.path} fuse.empiarfs {words} 0 0\n")
    done = made.run("mount", "--fstab", table, made.path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "10028" in made.call(names, made.path)
    assert made.run("umount", made.path).returncode == 0
    made.see_gone()


@pytest.mark.root
def test_mount_8_says_what_goes_wrong(mount: Mounts, helper: None) -> None:
    """An error under mount(8) is printed, and the status is not 0."""
    made = mount.prepare(mount.account())
    made.path.mkdir()
    done = made.run("mount", "-t", "fuse.empiarfs", "-o", options(made, mount.base_url), "99999", made.path)
    assert done.returncode != 0
    assert b"there is no entry 99999" in done.stderr
