"""Every error has its errno, and is the builtin error of its kind."""

import copy
import errno
import os
import pickle

import pytest

from empiarfs import errors
from empiarfs.engine.single_flight import copy_error
from empiarfs.errors import ArchiveError

# written out by hand, from the design
TABLE: dict[type[ArchiveError], tuple[int, type[OSError]]] = {
    errors.NotFound: (2, FileNotFoundError),
    errors.NotADirectory: (20, NotADirectoryError),
    errors.IsADirectory: (21, IsADirectoryError),
    errors.Forbidden: (13, PermissionError),
    errors.Stale: (116, OSError),
    errors.Unavailable: (5, OSError),
    errors.Throttled: (5, OSError),
    errors.CertificateError: (5, OSError),
    errors.WrongRange: (5, OSError),
    errors.UnknownListing: (5, OSError),
    errors.Offline: (113, OSError),
    errors.Cancelled: (4, InterruptedError),
    errors.Closed: (5, OSError),
}
NAMES = {
    2: "ENOENT",
    20: "ENOTDIR",
    21: "EISDIR",
    13: "EACCES",
    116: "ESTALE",
    5: "EIO",
    113: "EHOSTUNREACH",
    4: "EINTR",
}
KINDS = sorted(TABLE, key=lambda kind: kind.__name__)


def test_the_table_is_complete() -> None:
    """Every error of the module is in the table of this test."""
    kinds = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, ArchiveError) and kind is not ArchiveError
    }
    assert kinds == set(TABLE)


def test_the_numbers_are_those_of_linux() -> None:
    """The numbers of the table are those of Linux."""
    assert {number: errno.errorcode[number] for number in NAMES} == NAMES


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_has_its_errno(kind: type[ArchiveError]) -> None:
    """An error has the errno of its kind, with and without a reason."""
    number, _ = TABLE[kind]
    assert kind("10028/a").errno == number
    assert kind("10028/a", "why").errno == number


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_the_builtin_one_of_its_kind(kind: type[ArchiveError]) -> None:
    """An error can be caught as the builtin error of its kind."""
    _, builtin = TABLE[kind]
    with pytest.raises(builtin):
        raise kind("10028/a", "why")
    assert issubclass(kind, ArchiveError)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_no_builtin_one_of_another_kind(kind: type[ArchiveError]) -> None:
    """An error is not a builtin error of another kind."""
    _, own = TABLE[kind]
    for other in {FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, TimeoutError} - {own}:
        assert not issubclass(kind, other)


def test_throttled_is_unavailable() -> None:
    """Throttled, CertificateError and WrongRange are the only kinds of Unavailable."""
    assert issubclass(errors.Throttled, errors.Unavailable)
    assert {kind for kind in KINDS if issubclass(kind, errors.Unavailable)} == {
        errors.Unavailable,
        errors.Throttled,
        errors.CertificateError,
        errors.WrongRange,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_pickles(kind: type[ArchiveError]) -> None:
    """An error keeps kind, path, reason and number through pickle and copy."""
    error = kind("10028/\udcff", "why")
    for back in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own bytes
        assert type(back) is kind
        assert (back.path, back.reason, back.errno, str(back)) == (error.path, "why", error.errno, str(error))


def test_throttled_keeps_its_pause() -> None:
    """Throttled keeps its pause through pickle and `copy_error`."""
    error = errors.Throttled("10028/a", "slow down", 30.0)
    assert pickle.loads(pickle.dumps(error)).pause == 30.0  # noqa: S301 - our own bytes
    copied = copy_error(error)
    assert isinstance(copied, errors.Throttled)
    assert copied.pause == 30.0


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_one_line_with_the_path_and_the_reason(kind: type[ArchiveError]) -> None:
    """The text of an error is its path and reason; the root is a slash."""
    assert str(kind("10028/a", "the reason")) == "10028/a: the reason"
    assert str(kind("", "the reason")) == "/: the reason"


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_reason_an_error_says_what_its_number_means(kind: type[ArchiveError]) -> None:
    """An error without a reason has the system's text for its number."""
    assert str(kind("10028/a")) == f"10028/a: {os.strerror(TABLE[kind][0])}"


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_has_the_attributes_of_an_os_error(kind: type[ArchiveError]) -> None:
    """An error has the attributes `filename` and `strerror`."""
    error = kind("10028/a", "why")
    assert (error.filename, error.strerror) == ("10028/a", "why")
