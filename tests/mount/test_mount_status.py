"""The status of a mount: in its hidden file, by `empiarfs status`, and in its log."""

# what runs in a child speaks to the kernel as plainly as it can
# ruff: noqa: PTH116, PTH123, PTH208

import errno
import json
import mmap
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.fault_proxy import FaultProxy
from support.fixture_tree import RANDOM
from support.mounting import DEADLINE, Account, Mount, Mounts, eventually
from support.programs import length

NAME = ".empiarfs-status"
STUCK = "went silent|retrying|was closed|connection was lost|no reply|refuses connections|does not answer"


def text_of(path: str) -> str:
    """Return the text of a file."""
    return Path(path).read_text(encoding="ascii")


def status_of(mount: Mount) -> dict[str, Any]:
    """Return the status of `mount` from its hidden file, read by its user."""
    values: dict[str, Any] = json.loads(mount.call(text_of, mount / NAME, timeout=DEADLINE))
    return values


def status(account: Account, *words: str | Path) -> "subprocess.CompletedProcess[bytes]":
    """Run `empiarfs status`."""
    return account.empiarfs("status", *words, timeout=DEADLINE)


@pytest.mark.promise(
    "`.empiarfs-status` at the root is JSON that describes what the mount does, made at each `open`."
)
def test_the_hidden_file_tells_of_this_moment(mount: Mounts, binding: str, user: str) -> None:
    """`.empiarfs-status` at the root tells in JSON what the mount does, anew at each opening."""
    made = mount("10100", user=user, binding=binding)
    before = status_of(made)
    assert before["mountpoint"] == str(made.path)
    assert before["pid"] == made.daemon()
    assert before["binding"].startswith(f"{binding} on libfuse ")
    assert (before["entries"], before["reads"], before["fetched_bytes"]) == ([], 0, 0)
    size = made.call(length, made / RANDOM)
    after = status_of(made)
    assert after["entries"] == ["10100"]
    assert after["served_bytes"] == after["fetched_bytes"] == size
    assert after["reads"] > 0
    assert after["now"] > before["now"] >= before["since"] == after["since"]


@pytest.mark.promise("It is in no listing.")
def test_the_hidden_file_is_in_no_listing(mounted: Mount) -> None:
    """The status file is in no listing and has a size of 0, as files in /proc have."""

    def listed(root: str) -> tuple[bool, int, int]:
        found = os.stat(f"{root}/.empiarfs-status")
        return ".empiarfs-status" in os.listdir(root), found.st_mode, found.st_size

    assert mounted.call(listed, mounted.path) == (False, 0o100644, 0)
    assert NAME not in mounted.run("ls", "-a", mounted.path).stdout.decode()


def test_the_hidden_file_stands_at_the_root_alone(mounted: Mount) -> None:
    """The status file exists at the root alone."""
    assert mounted.call(length, mounted / f"10028/{NAME}") == -errno.ENOENT


@pytest.mark.promise("Its length is shown as 0, as in `/proc`: reading to the end returns all of it.")
@pytest.mark.parametrize("program", ["cat", "cp", "head", "dd", "python"])
def test_every_program_reads_the_hidden_file_whole(mounted: Mount, program: str) -> None:
    """Programs that look at its size first, and those that read in small pieces, read the whole status file."""
    file = mounted / NAME
    copy = mounted.account.home / f"copy-{program}"
    command: dict[str, list[str | Path]] = {
        "cat": ["cat", file],
        "cp": ["sh", "-c", f"cp '{file}' '{copy}' && cat '{copy}'"],
        "head": ["head", "-c", "1000000", file],
        "dd": ["dd", "bs=100", "status=none", f"if={file}"],
        "python": [sys.executable, "-c", f"print(open({str(file)!r}).read())"],
    }
    done = mounted.run(*command[program])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mountpoint"] == str(mounted.path)


@pytest.mark.promise("Maps of it and `sendfile` find nothing.")
def test_the_hidden_file_has_no_pages(mounted: Mount) -> None:
    """A map and sendfile of the status file find no bytes and no error."""

    def sent(path: str) -> tuple[int, int]:
        with open(path, "rb") as file, open(os.devnull, "wb") as nowhere:
            try:
                mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            except ValueError:  # Python's word for a file without bytes
                return os.sendfile(nowhere.fileno(), file.fileno(), 0, 1 << 20), 0
            return -1, -1

    assert mounted.call(sent, mounted / NAME) == (0, 0)


def test_a_snapshot_grows_and_is_never_cut(mount: Mounts, binding: str) -> None:
    """Each opening of the status file has a new snapshot of its own length."""

    def twice(root: str, other: str) -> tuple[str, str, str]:
        with open(f"{root}/.empiarfs-status") as first:
            begin = first.read(10)
            Path(other).read_bytes()
            with open(f"{root}/.empiarfs-status") as second:
                return begin + first.read(), second.read(), begin

    made = mount("10001", "10028", "10100", binding=binding)
    first, second, _ = made.call(twice, made.path, made / "10028/data/stack.mrcs")
    assert json.loads(first)["entries"] == []
    assert json.loads(second)["entries"] == ["10028"]
    assert len(second) > len(first)


def stuck(mount: Mount, path: Path) -> int:
    """Start a process that reads `path` from a silent server; return it."""
    return mount.start("cat", path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid


@pytest.mark.promise("It answers while the server is silent and programs wait for it.")
def test_it_answers_while_everything_else_is_stuck(mount: Mounts, fault_proxy: FaultProxy, binding: str) -> None:
    """While a server is silent and 60 programs wait for it, the status is read in its usual time."""

    def sizes(folder: str) -> int:
        return sum(os.stat(f"{folder}/{number:04d}.txt").st_size for number in range(60))

    made = mount(base_url=fault_proxy.url, binding=binding, env={"EMPIARFS_PATIENCE": "90"})
    made.expect(STUCK)
    made.call(sizes, made / "10300/data")
    with fault_proxy.hold(".*") as rule:
        for number in range(60):
            stuck(made, made / f"10300/data/{number:04d}.txt")
        stuck(made, made / "99999")  # a lookup at the root, where the file stands
        eventually(lambda: rule.waiting >= 8, "requests are silent")
        eventually(lambda: status_of(made)["readers_waiting"] > 20, "readers queue up")
        begun = time.monotonic()
        done = status(made.account, made.path)
        assert time.monotonic() - begun < 10
        assert done.returncode == 0, done.stderr
        text = done.stdout.decode()
        assert re.search(r"^  connections +\d+ in use", text, re.MULTILINE)
        assert max(len(line) for line in text.splitlines()) <= 80
        eventually(lambda: status_of(made)["stalls"], "silence is counted")
        values = status_of(made)
        assert 0 < values["connections_peak"] <= values["connections_limit"] == 10
        os.kill(made.daemon(), signal.SIGTERM)  # or the readers pause for long before they ask again
        made.see_gone()


def test_the_newest_warnings_are_shown(mount: Mounts, fault_proxy: FaultProxy) -> None:
    """A warning of the log is in the status with its time, path, reason and the time left for retries."""
    made = mount("10100", base_url=fault_proxy.url)
    made.expect(STUCK, "HTTP 500")
    made.call(length, made / "10100/data/1.bin")
    with fault_proxy.answer(RANDOM, 500, method="HEAD"):
        stuck(made, made / RANDOM)
        eventually(lambda: status_of(made)["warnings"], "a warning")
    (warning, *_) = status_of(made)["warnings"]
    where = "10100/data/random.bin: the server answers HTTP 500 Internal Server Error"
    assert re.fullmatch(rf"{where}; retrying for up to \d+ s", warning["text"])
    assert status_of(made)["since"] < warning["time"] < status_of(made)["now"]
    eventually(lambda: status_of(made)["retries"] > 1, "it is retried")
    assert "retrying" in " ".join(status(made.account, made.path).stdout.decode().split())


def test_counters_agree_with_the_server(mount: Mounts, fault_proxy: FaultProxy, binding: str) -> None:
    """The counted requests are those that the server received, and blocks come from memory, disk or network."""
    made = mount("10100", base_url=fault_proxy.url, binding=binding)
    made.call(length, made / RANDOM)
    values = status_of(made)
    assert values["requests"] == len(fault_proxy.seen)
    assert values["blocks_read"] >= values["blocks_from_memory"]
    assert values["blocks_fetched"] * 128 * 1024 >= values["fetched_bytes"] > 8 * 2**20
    assert values["blocks_from_disk"] == 0
    assert 0 < values["memory_bytes"] <= values["memory_limit_bytes"]
    eventually(lambda: status_of(made)["write_queue_bytes"] == 0, "blocks are written")
    limit = values["disk_limit_bytes"]
    eventually(
        lambda: values["fetched_bytes"] <= status_of(made)["disk_bytes"] <= limit, "the cache's size is told"
    )


def test_blocks_from_disk_are_counted(mount: Mounts) -> None:
    """After a new mount the blocks are counted as from disk, and none as fetched."""
    account = mount.account()
    made = mount("10100", account=account)
    size = made.call(length, made / RANDOM)
    made.umount()
    again = mount("10100", account=account)
    assert again.call(length, again / RANDOM) == size
    values = status_of(again)
    assert values["blocks_from_disk"] * 128 * 1024 >= size
    assert (values["blocks_fetched"], values["fetched_bytes"]) == (0, 0)


def test_status_shows_every_mount_of_the_user(mount: Mounts) -> None:
    """`status` without a mount point shows all mounts of the user, and none of another user."""
    account = mount.account("user")
    one, two = mount("10028", account=account), mount("10100", account=account)
    other = mount("10001", user="root") if os.geteuid() == 0 else None
    listed = json.loads(status(account, "--json").stdout)
    ours = [values["mountpoint"] for values in listed]
    assert {str(one.path), str(two.path)} <= set(ours)
    assert other is None or str(other.path) not in ours
    single = json.loads(status(account, one.path, "--json").stdout)
    assert single.keys() == status_of(one).keys() | {"trouble"}
    assert (single["mountpoint"], single["trouble"]) == (str(one.path), "")


def test_status_shows_mounts_that_are_open_to_all(mount: Mounts) -> None:
    """`status` of an ordinary user shows a mount of root with `--allow-other`."""
    if os.geteuid():
        return
    account = mount.account("root")
    account.home.chmod(0o755)
    made = mount("10028", account=account, flags=["--allow-other"])
    listed = json.loads(status(mount.account("user"), "--json").stdout)
    assert str(made.path) in [values["mountpoint"] for values in listed if not values["trouble"]]


def test_prometheus_labels_each_mount(mount: Mounts) -> None:
    """`status --prometheus` labels the numbers with the mount point, whatever its bytes are."""
    account = mount.account()
    path = account.home / 'odd "quote" \\ \udcff Grüße'
    made = mount("10028", account=account, path=path)
    done = status(account, "--prometheus", path)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    label = f'mountpoint="{account.home}/odd \\"quote\\" \\\\ \\\\xff Grüße"'
    assert f"empiarfs_up{{{label}}} 1\n" in text
    assert f"empiarfs_reads_total{{{label}}} 0\n" in text
    assert status(account, path).returncode == status(account, path, "--json").returncode == 0
    made.umount()


def test_a_dead_mount_is_shown_as_dead(mount: Mounts, binding: str, user: str) -> None:
    """`status` shows a mount whose daemon was killed with what to do, and the other mounts too."""
    account = mount.account(user, binding)
    made, other = mount("10100", account=account), mount("10028", account=account)
    os.kill(made.daemon(), signal.SIGKILL)
    eventually(lambda: not made.daemons(), "the daemon is dead")
    done = status(account)
    words = " ".join(done.stdout.decode().split())
    assert done.returncode == 1
    assert f"{made.path} is dead" in words
    assert f"empiarfs umount {made.path}" in words
    assert str(other.path) in words.replace(f"{made.path}", "")
    assert f'{{mountpoint="{made.path}"}} 0\n' in status(account, "--prometheus").stdout.decode()
    assert "is dead" in json.loads(status(account, made.path, "--json").stdout)["trouble"]


@pytest.mark.promise("`empiarfs status` ends within seconds, whatever a mount or its daemon does.")
def test_a_stopped_daemon_is_shown_as_silent(mount: Mounts, binding: str, user: str) -> None:
    """`status` says after some seconds that a stopped daemon does not answer."""
    made = mount("10100", user=user, binding=binding)
    daemon = made.daemon()
    os.kill(daemon, signal.SIGSTOP)
    try:
        done = status(made.account, made.path)
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert done.returncode == 1
    assert "does not answer" in done.stdout.decode()
    assert status_of(made)["pid"] == daemon


def in_the_foreground(made: Mount, base_url: str, changed: str) -> "subprocess.Popen[bytes]":
    """Start a mount in the foreground whose program runs `changed` first."""
    program = f"import sys\n{changed}from empiarfs.cli import main\nmain(['mount', '-f', *sys.argv[1:]])\n"
    return made.start(sys.executable, "-c", program, f"--base-url={base_url}", made.path, stderr=subprocess.PIPE)


def test_a_request_that_the_daemon_has_begun_does_not_hold_status(mount: Mounts, binding: str) -> None:
    """`status` ends although the daemon stopped while it answered, when the kernel cannot end the reader."""
    made = mount.prepare(mount.account(binding=binding))
    process = in_the_foreground(
        made,
        mount.base_url,
        "import signal, threading, empiarfs.mount.status as status\n"
        "as_text = status.as_text\n"
        "def stopping(*arguments):\n"
        "    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # or this thread may go on for a while\n"
        "    return as_text(*arguments)\n"
        "status.as_text = stopping\n",
    )
    try:
        eventually(made.is_mounted, "the mount")
        done = status(made.account, made.path)
        assert "does not answer" in done.stdout.decode()
        assert done.returncode == 1
    finally:
        process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE)
    made.see_gone()


@pytest.mark.promise(
    "`SIGUSR1` makes the daemon write to its log what each thread does, and its whole status; it never ends "
    "the daemon."
)
def test_sigusr1_writes_to_the_log(mount: Mounts, fault_proxy: FaultProxy, binding: str, user: str) -> None:
    """On each SIGUSR1 the daemon writes the stacks of its threads and its status to its log."""
    made = mount(base_url=fault_proxy.url, user=user, binding=binding, env={"EMPIARFS_PATIENCE": "90"})
    made.expect(STUCK)

    def dumped(times: int) -> bool:
        return made.log().count('"slow_first_byte_seconds"') == times

    with fault_proxy.hold(RANDOM, method="GET") as rule:
        stuck(made, made / RANDOM)
        eventually(lambda: rule.waiting, "the read is stuck")
        for times in (1, 2):
            os.kill(made.daemon(), signal.SIGUSR1)
            eventually(partial(dumped, times), "the log")
        text = made.log()
        assert re.search(r"signal 10: the threads of \S+\n", text)
        assert re.search(r"^request \d+ \(\d+\)|request \d+", text, re.MULTILINE)
        assert re.search(r"of libfuse \(\d+\)\n(?:  .*\n)+?  File \".*operations\.py\", line \d+, in read\n", text)
        assert f'"mountpoint": "{made.path}"' in text
        assert "signal 10" not in str(status_of(made)["warnings"])
        os.kill(made.daemon(), signal.SIGTERM)
        made.see_gone()


def test_sigusr1_never_ends_a_daemon_in_the_foreground(mount: Mounts, binding: str) -> None:
    """SIGUSR1 before the mount answers does not end a daemon in the foreground, which writes its status."""
    made = mount.prepare(mount.account(binding=binding))
    process = in_the_foreground(
        made,
        mount.base_url,
        "import os, signal, empiarfs.mount.daemon as daemon\n"
        "serve = daemon.serve\n"
        "def early(*arguments, **more):\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    serve(*arguments, **more)\n"
        "daemon.serve = early\n",
    )
    eventually(made.is_mounted, "the mount")
    eventually(lambda: made.call(length, made / "10100/data/1.bin") == 1, "it reads")
    process.send_signal(signal.SIGUSR1)
    assert made.call(length, made / "10100/data/1.bin") == 1
    process.send_signal(signal.SIGTERM)
    _, words = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, words
    assert words.count(b"signal 10: the threads of") == 2
    assert b"unmounting" not in words
    made.see_gone()


def test_sigusr1_does_not_end_a_daemon_that_only_begins(mount: Mounts) -> None:
    """SIGUSR1 between the fork and the first answer does not end the daemon, which writes its status."""
    made = mount.prepare(mount.account())
    program = (
        "import os, signal, sys, empiarfs.mount.daemon as daemon\n"
        "detached = daemon._detached\n"
        "def early(*arguments):\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    detached(*arguments)\n"
        "daemon._detached = early\n"
        "from empiarfs.cli import main\n"
        "main(['mount', *sys.argv[1:]])\n"
    )
    words = (f"--base-url={mount.base_url}", f"--log-file={made.log_file}", made.path)
    done = made.run(sys.executable, "-c", program, *words)
    assert done.returncode == 0, done.stderr
    assert made.call(length, made / "10100/data/1.bin") == 1
    eventually(lambda: "the threads of" in made.log(), "the log")
    made.run("fusermount3", "-u", made.path)
    eventually(lambda: not made.is_mounted(), "the mount goes")


@pytest.mark.promise("No status holds the user name or password of a URL.")
def test_credentials_are_not_shown(mount: Mounts, fault_proxy: FaultProxy) -> None:
    """No status contains the user name or password of the base URL."""
    url = fault_proxy.url.replace("http://", "http://me:se%40cret@")
    made = mount("10100", base_url=url)
    assert status_of(made)["base_url"] == fault_proxy.url
    for words in ((), ("--json",), ("--prometheus",)):
        assert b"cret" not in status(made.account, made.path, *words).stdout
