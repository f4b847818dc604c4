"""A real FTP server on loopback, in a process of its own, that notes what it is asked."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

_PROGRAM = """\
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer

class Handler(FTPHandler):
    def pre_process_command(self, line, command, argument):
        with open(sys.argv[2], "a") as log:
            print(command, file=log)
        super().pre_process_command(line, command, argument)

Handler.authorizer = DummyAuthorizer()
Handler.authorizer.add_anonymous(sys.argv[1])
server = FTPServer(("127.0.0.1", 0), Handler)
print(server.socket.getsockname()[1], flush=True)
server.serve_forever()
"""


class FtpServer:
    """Serves the directory `root` read-only to every user.

    Attributes:
        port: where it listens.
    """

    def __init__(self, root: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="empiarfs-ftp-")
        self._log = Path(self._folder.name) / "log"
        self._log.touch()
        command = [sys.executable, "-W", "ignore", "-c", _PROGRAM, os.fspath(root), os.fspath(self._log)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    @property
    def url(self) -> str:
        """The URL of its root."""
        return f"ftp://127.0.0.1:{self.port}/"

    def commands(self) -> list[str]:
        """Return what it was asked, as `["USER", "PASS", "CWD", "LIST", ...]`."""
        return self._log.read_text().split()

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.communicate()
        self._folder.cleanup()
