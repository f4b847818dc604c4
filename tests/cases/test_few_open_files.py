"""Shells that allow few open files (`ulimit -n 64`), where the log got a traceback for each request."""

import errno
import logging
import os
import re
import resource
import sys
from pathlib import Path

from support.mounting import Mounts
from support.programs import names

from empiarfs.cli import options


def record(error: OSError, second: float = 0.0) -> logging.LogRecord:
    """Return what is logged when a read meets `error`."""
    made = logging.LogRecord("empiarfs", logging.ERROR, "", 0, "read %s", ("10028/a",), (OSError, error, None))
    made.created = second
    return made


def test_too_many_open_files_are_one_line_a_minute() -> None:
    """Errors about too many open files are one line a minute in the log, with the limit and what to do."""
    handler = logging.NullHandler()
    handler.addFilter(options.FewFiles())
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    records = [record(error, second) for second in (0.0, 1.0, 59.0, 61.0)]
    passed = [one for one in records if handler.filter(one)]
    assert passed == [records[0], records[3]]
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    says = f"requests fail: Too many open files (ulimit -n {most}); raise the limit: ulimit -n 1024"
    assert [(one.getMessage(), one.exc_info) for one in passed] == [(says, None)] * 2


def test_other_errors_have_their_traceback() -> None:
    """Any other error is logged with its traceback, each time."""
    handler = logging.NullHandler()
    handler.addFilter(options.FewFiles())
    records = [record(OSError(errno.EIO, "no")) for _ in range(2)]
    assert [bool(handler.filter(one) and one.exc_info) for one in records] == [True, True]


def test_a_mount_raises_a_limit_that_it_may_raise(mount: Mounts) -> None:
    """A mount may open as many files as the administrator allows, whatever its shell has chosen."""
    most = min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    made = mount.prepare(mount.account())
    words = ("mount", f"--base-url={mount.base_url}", f"--log-file={made.log_file}", made.path, "10028")
    script = f'ulimit -Sn 64; ulimit -Hn {most}; exec "$@"'
    assert made.run("bash", "-c", script, "bash", sys.executable, "-m", "empiarfs", *words).returncode == 0
    limits = Path(f"/proc/{made.daemon()}/limits").read_text()
    assert re.search(rf"Max open files +{most} +{most} ", limits)
    assert made.call(names, made.path) == ["10028"]
