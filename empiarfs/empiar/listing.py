"""Listings of directories from the server's HTML pages."""

from collections.abc import Sequence

from empiarfs.empiar import autoindex, autoindex_fields
from empiarfs.empiar.http import HttpClient
from empiarfs.errors import Unavailable, UnknownListing
from empiarfs.model import File, Node, Stub


def agrees(stub: Stub, file: File) -> bool:
    """Return whether a server may write the size of `file` as the listed size of `stub`."""
    sizes = autoindex_fields.size_range(stub.listed_size)
    return sizes is None or file.size in sizes


def listed_mtime(stub: Stub) -> int | None:
    """Return the listed date of `stub` in seconds since 1970, to the minute and a time zone; None for none."""
    return autoindex_fields.seconds(stub.listed_date)


class HtmlListing:
    """Lists directories from the server's index pages, with rounded sizes, by one request each.

    A server that has sent an index page before sends another page for a moment only: it is being maintained, or a
    captive portal is in the way. One that never has is not of a known kind.
    """

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._is_known = False

    def scan(self, directory: str) -> Sequence[Node]:
        """See `Listing.scan`; raise UnknownListing if the server has never sent an index page."""
        with self._client.request("GET", directory, slash=True) as response:
            url = self._client.url(directory) + "/"
            try:
                rows = autoindex.rows(self._client.body(response, directory), url)
            except autoindex.Truncated as error:
                raise Unavailable(directory, str(error)) from error
            except autoindex.NotAListing as error:
                if self._is_known:
                    raise Unavailable(directory, f"the server sends no listing: {error}") from error
                raise UnknownListing(
                    directory, f"{error}; the listings of Apache, nginx and lighttpd are known"
                ) from error
        self._is_known = True
        return autoindex.nodes(rows, directory)
