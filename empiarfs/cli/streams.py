"""Standard output and standard error: what cannot be written is reported by the program, not by Python."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO

import click

from empiarfs.cli.text import reason

BROKEN_PIPE = 141  # as a shell reports a program that SIGPIPE ended


class _Closed(io.BufferedIOBase):
    """Stands in for a closed standard output; every write fails."""

    def writable(self) -> bool:
        return True

    def write(self, _: object) -> NoReturn:
        raise OSError(errno.EBADF, "standard output is closed; redirect it to a file or a pipe")


class _Named(io.RawIOBase):
    """Standard output, whose errors name it: "No space left on device" may as well be the cache's."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__()
        self._raw = raw

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._raw.isatty()

    def fileno(self) -> int:
        return self._raw.fileno()

    def write(self, data: Any) -> int | None:
        try:
            return self._raw.write(data)
        except BrokenPipeError:
            raise  # is no error of ours to report
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from error


class Guarded(click.Command):
    """A program that flushes its output itself; Python would exit with 120 if it could not."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run; output that cannot be written is one line and status 1, a closed pipe is status 141."""
        if sys.stdout is None:
            sys.stdout = io.TextIOWrapper(_Closed(), "utf-8", write_through=True)
        sys.stdout = _buffered(sys.stdout)
        try:
            with _written_out():
                return super().main(*arguments, **options)
        except BrokenPipeError:
            sys.exit(BROKEN_PIPE)
        except OSError as error:
            with suppress(OSError):
                click.echo(f"Error: {reason(error)}", err=True)
            sys.exit(1)
        finally:
            with suppress(OSError):
                _flush(sys.stderr)

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        """Read the command line, which also answers `--help` and `--version`."""
        try:
            return super().make_context(*arguments, **options)
        except BrokenPipeError as error:  # else click exits with 1
            raise click.exceptions.Exit(BROKEN_PIPE) from error


@contextmanager
def _written_out() -> Iterator[None]:
    """Flush standard output at the end.

    Raises:
        OSError: it could not be written, and there was no error before.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            _flush(sys.stdout)
        else:  # that failure is the one to report
            with suppress(OSError):
                _flush(sys.stdout)
        raise
    _flush(sys.stdout)


def is_closed() -> bool:
    """Return whether standard output was closed when the program started."""
    return isinstance(getattr(sys.stdout, "buffer", None), _Closed)


def _buffered(stream: TextIO) -> TextIO:
    """Return `stream` with a buffer; without one (PYTHONUNBUFFERED) the rest of a partial write is lost."""
    buffer: object = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(raw, io.RawIOBase):
        return stream
    stream.flush()
    named = io.BufferedWriter(_Named(raw))
    return io.TextIOWrapper(named, stream.encoding, stream.errors, line_buffering=stream.isatty())


def _flush(stream: TextIO | None) -> None:
    """Flush `stream`; drop its content if that fails, because Python would try again at its end."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        raise
