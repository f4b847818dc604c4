"""What becomes of a connection, in a few words that say what to do."""

import enum

from empiarfs.settings import without_credentials


class Fate(enum.Enum):
    """What became of a line."""

    BROKEN = enum.auto()
    SILENT = enum.auto()
    REFUSED = enum.auto()
    UNTRUSTED = enum.auto()


_NO_TLS = "the server does not speak TLS there; is it http:// ?"
_SIGNS = (
    ("ConnectTimeout", Fate.SILENT, "the server does not answer"),
    ("Timeout", Fate.SILENT, "the server went silent"),
    ("timed out", Fate.SILENT, "the server went silent"),
    ("NameResolution", Fate.BROKEN, "the server's name cannot be found; is there a network?"),
    ("Connection refused", Fate.REFUSED, "the server refuses connections"),
    ("WRONG_VERSION_NUMBER", Fate.UNTRUSTED, _NO_TLS),
    ("RECORD_LAYER_FAILURE", Fate.UNTRUSTED, _NO_TLS),  # the same to OpenSSL 3.2 and newer
    (
        "certificate has expired",
        Fate.UNTRUSTED,
        "the server's certificate has expired, or this machine's clock is wrong",
    ),
    (
        "not yet valid",
        Fate.UNTRUSTED,
        "the server's certificate is not valid yet, or this machine's clock is wrong",
    ),
    ("certificate is not valid for", Fate.UNTRUSTED, "the server's certificate is for another host"),
    (
        "CERTIFICATE",
        Fate.UNTRUSTED,
        "the server's certificate cannot be verified; --ca-bundle names a file with its authority's",
    ),
    (
        "CA certificate bundle",
        Fate.UNTRUSTED,
        "the file of certificates that REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names is not there",
    ),
    ("ProxyError", Fate.BROKEN, "the proxy does not answer"),
    ("reset", Fate.BROKEN, "the line was lost"),
    ("IncompleteRead", Fate.BROKEN, "the line was lost"),
    ("BadStatusLine", Fate.BROKEN, "the server does not speak HTTP"),
)


class Lost(Exception):
    """The line was lost, silent, refused, or never there: its fate, and the same in a few words."""

    def __init__(self, fate: Fate, words: str) -> None:
        super().__init__(words)
        self.fate = fate


def told(error: BaseException, wordless: tuple[type[BaseException], ...]) -> Lost:
    """Say in a few words what was wrong with a line; the libraries say it in many.

    Args:
        error: what a library has raised.
        wordless: the kinds of errors whose words name what was asked for, and are not looked at.
    """
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    text = " ".join(
        type(cause).__name__ if isinstance(cause, wordless) else f"{type(cause).__name__} {cause}"
        for cause in causes
    )
    for sign, fate, words in _SIGNS:
        if sign in text:
            return Lost(fate, words)
    return Lost(Fate.BROKEN, f"no reply: {type(error).__name__}: {without_credentials(str(error))[:200]}")
