"""Standard output and standard error, so that what cannot be written is an error of the program, not of Python."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO

import click

BROKEN_PIPE = 141  # as a shell reports a program that SIGPIPE ended


class _Closed(io.BufferedIOBase):
    """Stands in for a standard output that is closed; every write fails."""

    def writable(self) -> bool:
        return True

    def write(self, _: object) -> NoReturn:
        raise OSError(errno.EBADF, "standard output is closed; there is nowhere to write to")


class Guarded(click.Command):
    """A program that writes its output before Python does, which would exit with 120 where it cannot."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run; what cannot be written is one line and status 1, a reader that went away is status 141."""
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
                click.echo(f"Error: {error.strerror or error}", err=True)
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
    """Write out standard output in the end.

    Raises:
        OSError: that failed, and nothing else had.
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
    """Return `stream` with a buffer; without one (PYTHONUNBUFFERED) what a write does not take is lost."""
    raw: object = getattr(stream, "buffer", None)
    if not isinstance(raw, io.RawIOBase):
        return stream
    buffer = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=stream.isatty())


def _flush(stream: TextIO | None) -> None:
    """Write out what `stream` holds; drop it where that fails, for it would fail again."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        raise
