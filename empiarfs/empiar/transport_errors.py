"""Classifies the errors of a connection, and words them for a person."""

import enum

from empiarfs.urls import without_credentials


class Kind(enum.Enum):
    """The kind of a transport error."""

    BROKEN = enum.auto()
    SILENT = enum.auto()
    REFUSED = enum.auto()
    UNTRUSTED = enum.auto()


_NO_TLS = "the server does not speak TLS there; is it http:// ?"
_PATTERNS = (
    # of a proxy, whose errors have the causes of a server's
    (
        "407 Proxy Authentication Required",
        Kind.BROKEN,
        "the proxy asks for a user name and a password (HTTP 407)",
    ),
    ("InvalidSchema", Kind.BROKEN, "a SOCKS proxy is set, and empiarfs needs an HTTP proxy"),
    ("appears to only use HTTP", Kind.BROKEN, "the proxy does not speak TLS; is it http:// in HTTPS_PROXY?"),
    ("Tunnel connection failed", Kind.BROKEN, "the proxy does not connect to the server"),
    ("ProxyError", Kind.BROKEN, "the proxy does not answer"),
    ("ConnectTimeout", Kind.SILENT, "the server does not answer"),
    ("Timeout", Kind.SILENT, "the server went silent"),
    ("timed out", Kind.SILENT, "the server went silent"),
    ("NameResolution", Kind.BROKEN, "the server's name cannot be found; is there a network?"),
    ("Connection refused", Kind.REFUSED, "the server refuses connections"),
    ("WRONG_VERSION_NUMBER", Kind.UNTRUSTED, _NO_TLS),
    ("RECORD_LAYER_FAILURE", Kind.UNTRUSTED, _NO_TLS),  # the same to OpenSSL 3.2 and newer
    (
        "certificate has expired",
        Kind.UNTRUSTED,
        "the server's certificate has expired, or this machine's clock is wrong",
    ),
    (
        "not yet valid",
        Kind.UNTRUSTED,
        "the server's certificate is not valid yet, or this machine's clock is wrong",
    ),
    ("certificate is not valid for", Kind.UNTRUSTED, "the server's certificate is for another host"),
    (
        "CERTIFICATE",
        Kind.UNTRUSTED,
        "the server's certificate cannot be verified; --ca-bundle names a file with its authority's",
    ),
    (
        "CA certificate bundle",
        Kind.UNTRUSTED,
        "the file of certificates that REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names is not there",
    ),
    ("reset", Kind.BROKEN, "the connection was lost"),
    ("IncompleteRead", Kind.BROKEN, "the connection was lost"),
    ("BadStatusLine", Kind.BROKEN, "the server does not speak HTTP"),
)


class TransportError(Exception):
    """A connection broke, was silent or refused, or could not be opened: the kind, and a message for a person."""

    def __init__(self, fate: Kind, words: str) -> None:
        super().__init__(words)
        self.kind = fate


def classify(error: BaseException, wordless: tuple[type[BaseException], ...]) -> TransportError:
    """Return the transport error for an exception of a library.

    Args:
        error: the exception.
        wordless: the types of exceptions whose messages contain the URL, and are not searched.
    """
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    text = " ".join(
        type(cause).__name__ if isinstance(cause, wordless) else f"{type(cause).__name__} {cause}"
        for cause in causes
    )
    for sign, fate, words in _PATTERNS:
        if sign in text:
            return TransportError(fate, words)
    return TransportError(Kind.BROKEN, f"no reply: {type(error).__name__}: {without_credentials(str(error))[:200]}")
