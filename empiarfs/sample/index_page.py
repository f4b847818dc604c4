"""A directory listing as ftp.ebi.ac.uk writes it: Apache's index table, byte for byte; no I/O.

The rules are those of mod_autoindex, `apr_strfsize`, `ap_os_escape_path` and `ap_escape_html` in Apache 2.4.
"""

import html
import re
import time
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass

from empiarfs.units import KIB

NAME_WIDTH = 50  # bytes of a name that a row shows; its link always holds all of it

_PLAIN = "$-_.+!*'(),:;@&=/~"  # characters that Apache does not escape in a path, beside letters and digits
# the stock IndexIgnore: .??* *~ *# HEADER* README* RCS CVS *,v *,t
_HIDDEN = re.compile(rb"\...+|.*~|.*#|HEADER.*|README.*|RCS|CVS|.*,v|.*,t", re.DOTALL)
_WIDE = 973  # from here on the number needs more than 4 characters: the next unit
_PICTURES = {b"tif": ("image2", "[IMG]"), b"tiff": ("image2", "[IMG]"), b"txt": ("text", "[TXT]")}

_TOP = """\
<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">
<html>
 <head><title>Index of {title}</title></head>
 <body>
<h1>Index of {title}</h1>
  <table>
   <tr><th valign="top"><img src="/icons/blank.gif" alt="[ICO]"></th><th><a href="?C=N;O=D">Name</a></th>\
<th><a href="?C=M;O=A">Last modified</a></th><th><a href="?C=S;O=A">Size</a></th>\
<th><a href="?C=D;O=A">Description</a></th></tr>
   <tr><th colspan="5"><hr></th></tr>
<tr><td valign="top"><img src="/icons/back.gif" alt="[PARENTDIR]"></td>\
<td><a href="{parent}">Parent Directory</a></td>\
<td>&nbsp;</td><td align="right">  - </td><td>&nbsp;</td></tr>
"""
_ROW = """\
<tr><td valign="top"><img src="/icons/{icon}.gif" alt="{alt}"></td><td><a href="{link}">{text}</a></td>\
<td align="right">{date}  </td><td align="right">{size}</td><td>&nbsp;</td></tr>
"""
_BOTTOM = """\
   <tr><th colspan="5"><hr></th></tr>
</table>
</body></html>
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One file or subdirectory of a directory.

    Attributes:
        name: its bytes on disk, with a `/` at the end if it is a directory.
        size: in bytes; None for a directory.
        modified: in seconds since 1970.
    """

    name: bytes
    size: int | None
    modified: float


def page(path: bytes, rows: Iterable[Row]) -> bytes:
    """Return the listing of the directory at the URL path `path`, which is decoded and has no slash at its end."""
    title = _marked(path)
    parent = _marked(escaped(path.rpartition(b"/")[0] + b"/").encode())
    shown = sorted((row for row in rows if not is_hidden(row.name.rstrip(b"/"))), key=lambda row: row.name)
    text = _TOP.format(title=title, parent=parent) + "".join(map(_row, shown)) + _BOTTOM
    return text.encode("latin-1")  # each character is one byte: names stay unchanged


def is_hidden(name: bytes) -> bool:
    """Return whether a listing hides `name`, although a request for it is answered."""
    return _HIDDEN.fullmatch(name) is not None


def listed_size(size: int) -> str:
    """Return `size` in four characters as `apr_strfsize` rounds it: `650 `, `1.2G`, ` 17K`, `543M`."""
    if size < _WIDE:
        return f"{size:3d} "
    rest, units = 0, iter("KMGTPE")
    unit = ""
    while size >= _WIDE:
        size, rest = divmod(size, KIB)
        unit = next(units)
    if size < 9 or (size == 9 and rest < _WIDE):  # noqa: PLR2004 # Apache's rule: below 10 there is room for a tenth
        tenth = (rest * 5 + 256) // 512
        return f"{size + tenth // 10}.{tenth % 10}{unit}"
    return f"{size + (rest >= KIB // 2):3d}{unit}"


def escaped(path: bytes) -> str:
    """Return `path` percent-escaped as Apache does: lower-case hex, and fewer escapes than urllib."""
    quoted = urllib.parse.quote_from_bytes(path, safe=_PLAIN)
    return re.sub("%[0-9A-F]{2}", lambda found: found.group().lower(), quoted)


def _row(row: Row) -> str:
    is_directory = row.size is None
    suffix = row.name.rpartition(b".")[2].lower()
    icon, alt = ("folder", "[DIR]") if is_directory else _PICTURES.get(suffix, ("unknown", "[   ]"))
    link = escaped(row.name)
    if ":" in link.partition("/")[0]:
        link = f"./{link}"  # else a browser takes the part before the colon for a scheme
    text = row.name if len(row.name) <= NAME_WIDTH else row.name[: NAME_WIDTH - 3] + b"..>"
    return _ROW.format(
        icon=icon,
        alt=alt,
        link=_marked(link.encode()),
        text=_marked(text),
        date=time.strftime("%Y-%m-%d %H:%M", time.gmtime(row.modified)),
        size="  - " if row.size is None else listed_size(row.size),
    )


def _marked(text: bytes) -> str:
    """Return `text` escaped for HTML as `ap_escape_html` does, which does not escape the apostrophe."""
    return html.escape(text.decode("latin-1"), quote=False).replace('"', "&quot;")
