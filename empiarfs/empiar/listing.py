"""Listings of directories from the server's HTML pages."""

from collections.abc import Sequence

from empiarfs.empiar import autoindex, autoindex_fields
from empiarfs.empiar.http import HttpClient
from empiarfs.errors import Unavailable
from empiarfs.model import File, Node, Stub


def agrees(stub: Stub, file: File) -> bool:
    """Return whether the size of `file` rounds to the listed size of `stub`."""
    sizes = autoindex_fields.size_range(stub.listed_size)
    return sizes is None or file.size in sizes


class HtmlListing:
    """Lists directories from the server's index pages, with rounded sizes, by one request each."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    def scan(self, directory: str) -> Sequence[Node]:
        """See `Listing.scan`."""
        with self._client.request("GET", directory, slash=True) as response:
            url = self._client.url(directory) + "/"
            try:
                rows = autoindex.rows(self._client.body(response, directory), url)
            except autoindex.NotAListing as error:
                raise Unavailable(directory, f"the server sends no listing: {error}") from error
        return autoindex.nodes(rows, directory)
