"""Mounts for tests: started as a user starts them, looked at through real programs, and always taken down."""

import ast
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from support import sandbox

BINDINGS = ("mfusepy", "fusepy")
DEADLINE = 30.0  # seconds for whatever takes three at most
PATIENCE = "20"  # seconds a read waits for a server in tests; the default of 300 would outlast them

_WORTH_A_LOOK = re.compile(r"^\S+ \S+ (WARNING|ERROR|CRITICAL) |^Traceback|^Exception", re.MULTILINE)
# what a child that looks at a mount begins with; functions of tests bring no imports of their own
_PRELUDE = """\
import ast, ctypes, errno, fcntl, hashlib, json, mmap, os, random, select, shutil, signal, socket, stat
import subprocess, sys, threading, time
from collections.abc import Callable
from pathlib import Path
from concurrent.futures import ThreadPoolExecutor
"""


T = TypeVar("T")


def pairwise(values: Sequence[T]) -> list[tuple[T, str, str]]:
    """Return cases of a value, a binding and a user in which each two of these meet, but not all three."""
    users = sandbox.users()
    if len(users) == 1:
        return [(value, binding, user) for value in values for binding in BINDINGS for user in users]
    return [
        (value, BINDINGS[(number + place) % len(BINDINGS)], user)
        for number, value in enumerate(values)
        for place, user in enumerate(users)
    ]


class Wrong(AssertionError):
    """A mount did what no mount may do, whatever the test is about."""


def eventually(true: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Wait until something is true.

    Raises:
        Wrong: it did not come true in time.
    """
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise Wrong(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)


class Account:
    """A user with a home, an environment, and programs, isolated from the user of the tests.

    Args:
        user: who.
        home: an empty directory; becomes the user's.
        binding: the FUSE binding.
    """

    def __init__(self, user: sandbox.User, home: Path, binding: str) -> None:
        self.user = user
        self.home = home
        self.binding = binding
        self.token = f"EMPIARFS_TEST={uuid.uuid4().hex}"
        self._started: list[subprocess.Popen[bytes]] = []
        if os.geteuid() == 0:
            os.chown(home, user.uid, user.gid)

    def mkdir(self, path: Path) -> Path:
        """Make a directory of the user's, and return it."""
        path.mkdir()
        os.chown(path, self.user.uid, self.user.gid)
        return path

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of the user's programs."""
        name, _, value = self.token.partition("=")
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "XDG_STATE_HOME": str(self.home / "state"),
            "XDG_RUNTIME_DIR": str(self.home),
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(sandbox.PROJECT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "EMPIARFS_CONFIG": os.devnull,
            "EMPIARFS_FUSE": self.binding,
            "EMPIARFS_PATIENCE": PATIENCE,
            name: value,
            **more,
        }

    def start(
        self, *command: str | Path, env: Mapping[str, str] | None = None, **more: Any
    ) -> "subprocess.Popen[bytes]":
        """Start a program as the user."""
        identity: dict[str, Any] = {}
        if os.geteuid() == 0 and self.user.uid:
            identity = {"user": self.user.uid, "group": self.user.gid, "extra_groups": []}
        more = {"stdin": subprocess.DEVNULL, "cwd": "/", "umask": sandbox.UMASK, **more}
        process = subprocess.Popen(
            [os.fspath(word) for word in command], env=self.environment(**(env or {})), **identity, **more
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        """End all programs that were started; those that hang in a mount end with it."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=DEADLINE)
        self._started.clear()

    def run(
        self,
        *command: str | Path,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
        typed: str | None = None,
        **more: Any,
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run a program as the user to its end, with `typed` as its input; return its status and output."""
        if typed is not None:
            more["stdin"] = subprocess.PIPE
        process = self.start(*command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
        try:
            out, err = process.communicate(None if typed is None else typed.encode(), timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            with suppress(subprocess.TimeoutExpired):  # it may hang in a mount, which goes at the end of the test
                process.communicate(timeout=5)
            raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def empiarfs(self, *words: str | Path, **more: Any) -> "subprocess.CompletedProcess[bytes]":
        """Run the command line."""
        return self.run(sys.executable, "-m", "empiarfs", *words, **more)

    def call(self, function: Callable[..., Any], *arguments: object, timeout: float = 60.0) -> Any:
        """Call `function` in a process of the user's, so that a mount that hangs cannot hang the tests.

        Args:
            function: sees what `_PRELUDE` imports and nothing of its own module.
            arguments: literals and paths; the result must be literals too.
            timeout: seconds.
        """
        _, answer = self.calling(function, *arguments)
        return answer(timeout)

    def calling(
        self, function: Callable[..., Any], *arguments: object, stdout: Any = subprocess.PIPE
    ) -> "tuple[subprocess.Popen[bytes], Callable[[float], Any]]":
        """Start the same; return the process, and a function that waits for its result."""
        values = tuple(os.fspath(one) if isinstance(one, Path) else one for one in arguments)
        source = textwrap.dedent(inspect.getsource(function))
        program = (
            f"{_PRELUDE}\n{source}\nresult = {function.__name__}(*ast.literal_eval({ascii(values)!r}))\n"
            "print(ascii(result), flush=True)\n"
        )
        process = self.start(sys.executable, "-I", "-c", program, stdout=stdout, stderr=subprocess.PIPE)

        def answer(seconds: float) -> Any:
            try:
                out, err = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            assert process.returncode == 0, err.decode(errors="replace")
            return ast.literal_eval(out.decode().splitlines()[-1])  # what a library says stands before it

        return process, answer


class Mount:
    """One mount, and its account.

    Attributes:
        path: where.
        account: whose.
        log_file: the daemon's log.
        expected: patterns of log lines that are no surprise in this test.
        started: the first `empiarfs mount`, run to its end.
    """

    def __init__(self, account: Account, path: Path, log_file: Path) -> None:
        self.account = account
        self.path = path
        self.log_file = log_file
        self.expected: list[str] = []
        self.started: subprocess.CompletedProcess[bytes] | None = None
        self.run = account.run
        self.call = account.call
        self.calling = account.calling
        self.start = account.start

    def __truediv__(self, path: str) -> Path:
        return self.path / path

    def log(self) -> str:
        """Return what the daemon has logged."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def expect(self, *patterns: str) -> None:
        """Accept log lines that match any of `patterns`."""
        self.expected += patterns

    def daemon(self) -> int:
        """Return the process that serves the mount."""
        (found,) = self.daemons()
        return found

    def daemons(self) -> list[int]:
        """Return the processes that serve it; none when it is gone."""
        ours = sandbox.processes(self.account.token)
        return [one for one in ours if _command(one)[1:4] == ["-m", "empiarfs", "mount"] and self._is_for(one)]

    def _is_for(self, process: int) -> bool:
        return str(self.path) in _command(process)

    def is_mounted(self) -> bool:
        """Return whether the kernel has it."""
        return bool(sandbox.mounted(self.path))

    def umount(self, *flags: str) -> None:
        """Unmount as a user does, and check that nothing is left."""
        done = self.account.empiarfs("umount", *flags, self.path, timeout=DEADLINE)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        self.see_gone()

    def see_gone(self) -> None:
        """Check that neither the mount nor its daemon is left."""
        eventually(lambda: not self.is_mounted(), f"{self.path} leaves the table of mounts")
        eventually(lambda: not self.daemons(), "the daemon ends")

    def surprises(self) -> list[str]:
        """Return the warnings and errors of the log that no test expects."""
        lines = [line for line in self.log().splitlines() if _WORTH_A_LOOK.match(line)]
        return [line for line in lines if not any(re.search(one, line) for one in self.expected)]

    def destroy(self) -> None:
        """Take it down by force, whatever state it is in."""
        for process in sandbox.processes(self.account.token):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        while self.is_mounted():
            program = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
            if subprocess.run([*program, self.path], check=False, timeout=DEADLINE).returncode:
                break


class Mounts:
    """Makes mounts, and unmounts all of them.

    Args:
        folder: an empty directory that everyone can reach.
        base_url: the archive, where a mount names no other.
    """

    def __init__(self, folder: Path, base_url: str) -> None:
        self.folder = folder
        self.base_url = base_url
        self.made: list[Mount] = []

    def account(self, user: str = "", binding: str = BINDINGS[0]) -> Account:
        """Return a new user, with a home and nothing in it."""
        home = Path(tempfile.mkdtemp(prefix="home-", dir=self.folder))
        who = sandbox.ordinary() if user == "user" else sandbox.me()
        return Account(who, home, binding)

    def __call__(
        self,
        *entries: str,
        account: Account | None = None,
        user: str = "",
        binding: str = BINDINGS[0],
        base_url: str = "",
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        path: Path | None = None,
    ) -> Mount:
        """Mount, and see that it mounts.

        Args:
            entries: the entries to show; all where there are none.
            account: whose; a new user's where it is None. The cache is the account's.
            user: `"root"` or `"user"`; whoever runs the tests where it is empty.
            binding: the FUSE binding.
            base_url: the archive.
            flags: further flags.
            env: further variables.
            path: where; a new place in the account's home where it is None.
        """
        mount = self.prepare(account or self.account(user, binding), path)
        mount.started = self.command(mount, *entries, base_url=base_url, flags=flags, env=env)
        assert mount.started.returncode == 0, mount.started.stderr.decode(errors="replace")
        assert mount.is_mounted(), "it said that it is mounted, and is not"
        return mount

    def prepare(self, account: Account, path: Path | None = None) -> Mount:
        """Return a mount that is not made yet."""
        number = len(self.made)
        mount = Mount(account, path or account.home / f"mnt{number}", account.home / f"log{number}.txt")
        self.made.append(mount)
        return mount

    def command(
        self,
        mount: Mount,
        *entries: str,
        base_url: str = "",
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run `empiarfs mount`; return its status and output."""
        return mount.account.empiarfs(
            "mount",
            f"--base-url={base_url or self.base_url}",
            f"--log-file={mount.log_file}",
            *flags,
            "--",
            mount.path,
            *entries,
            env=env,
            timeout=DEADLINE,
        )

    def finish(self) -> None:
        """Unmount all; raise for everything that is left or was logged unexpectedly.

        Raises:
            Wrong: with everything that was found.
        """
        found: list[str] = []
        for mount in reversed(self.made):
            try:
                mount.account.end()
                if mount.is_mounted():
                    mount.umount("--lazy")
                mount.see_gone()
            except (AssertionError, subprocess.TimeoutExpired) as error:
                found.append(f"{mount.path}: {error}")
            finally:
                mount.destroy()
            found += [f"log of {mount.path}: {line}" for line in mount.surprises()]
            if "Traceback" in mount.log() and not any("Traceback" in one for one in mount.expected):
                found.append(mount.log())
        self.made.clear()
        shutil.rmtree(self.folder, ignore_errors=True)
        if found:
            raise Wrong("\n".join(found))

    @contextmanager
    def watched(self, seconds: float) -> Iterator[None]:
        """Kill all daemons if the block takes longer, so that programs that hang in a mount get an error."""

        def destroy() -> None:
            for mount in list(self.made):
                mount.destroy()

        timer = threading.Timer(seconds, destroy)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _command(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
    except OSError:
        return []


def status_of(mount: Mount) -> dict[str, Any]:
    """Return the output of `empiarfs status --json`."""
    values: dict[str, Any] = json.loads(mount.account.empiarfs("status", "--json", mount.path).stdout)
    return values
