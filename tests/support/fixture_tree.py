"""The tree that Apache serves to the mount tests: EMPIAR in small, with all that a name or a size may be."""

import fnmatch
import os
import random
from pathlib import Path

BLOCK = 256 * 1024
MODIFIED = 1_600_000_000  # what every file of the tree was modified at, plus its place in it
SMALL_FILES = 3000
RANDOM = "10100/data/random.bin"
RANDOM_BYTES = 8 * 2**20 + 4_321
STACK = "10028/data/stack.mrcs"
SPARSE = "10200/data/sparse.mrc"
SPARSE_BYTES = 4 * 2**30 + 12_345
# where the sparse file is not zero: odd places, before, across and after 4 GiB, and its last bytes
SPARSE_MARKS = (1, BLOCK - 3, 2**31 - 5, 2**32 - 7, 2**32 + 4_321, SPARSE_BYTES - 9)
SPARSE_MARK = b"EMPIAR-3D"

NAMES = (
    "plain.mrc",
    "with space.mrc",
    " leading and trailing ",
    "hash#mark.mrc",
    "100%.mrc",
    "percent%2Fslash.mrc",
    "%41.mrc",
    "plus+plus.tif",
    "slice_02534_z=12.6376um.tif",
    "and&and&amp;.tif",
    "semi;colon,comma.txt",
    "colon:colon.txt",
    "question?C=N;O=D",
    "brackets_[-4.00]_EER.eer",
    "-leading-minus",
    "--help",
    "quote'\"quote",
    "<b>bold</b>",
    "back\\slash",
    "dollar$`tick`!",
    "star*~tilde~.x",
    "{brace}^|",
    "new\nline.txt",
    "tab\tescape\x1b[31m.txt",
    "Grüße_日本語_🔬.mrc",
    "e\u0301 is not é",
    "latin\udce9.mrc",  # one byte E9, which is not UTF-8
    "\udcff\udcfe\udc80",
    "ts_002.mrc_9.98Apx.mrc",
    "image.tif.jpg",
    "movie.tiff.bz2",
    "map.map.gz",
    "UPPER.MRC",
    "index.html",
    "a" * 251 + ".mrc",
    "日" * 85,  # 255 bytes
)
DIRECTORIES = (
    "TS_016.mrc",
    "Obese LacZ",
    "trakem2.1528909664283.981147357.856576865",
    "deep",
    "empty",
    "-r",
    "50%",
)
DEEP = "deep/2/3/4/5/6/7/8/9/10"

_HIDDEN = (".??*", "*~", "*#", "HEADER*", "README*", "RCS", "CVS", "*,v", "*,t")


class FixtureTree:
    """The tree.

    10001 holds odd names, 10028 what cryo-EM programs read, 10100 sizes, 10200 the sparse file, 10300 small files,
    10400 a directory that Apache does not list (`closed`); notes.txt lies beside the entries.

    Args:
        root: an empty directory that everyone can reach.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._random = random.Random(2028)
        self._files = 0
        self._names()
        self._images()
        self._sizes()
        self._sparse()
        for number in range(SMALL_FILES):
            self.write(f"10300/data/{number:04d}.txt", b"%d\n" % number)
        self.write("10400/closed/known.txt", b"a file in a directory without listing\n")
        self.write("10400/open.txt", b"open\n")
        self.write("10002/10002.xml", b'<entry xmlns="http://pdbe.org/empiar" accessionCode="EMPIAR-10002"/>\n')
        self.write("notes.txt", b"not an entry\n")
        (root / "lost+found").mkdir()

    def write(self, path: str, data: bytes) -> Path:
        """Make the file `path` hold `data`; its date is one of its own."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        self.date(file)
        return file

    def date(self, file: Path) -> None:
        """Return `file` a date that no other file has."""
        self._files += 1
        os.utime(file, (MODIFIED + self._files, MODIFIED + self._files))

    def bytes(self, size: int) -> bytes:
        """Return random bytes, the same in every run."""
        return self._random.randbytes(size)

    def _names(self) -> None:
        for name in NAMES:
            self.write(f"10001/data/{name}", os.fsencode(name) * 3)
        for name in DIRECTORIES:
            (self.root / "10001/data" / name).mkdir()
        self.write("10001/data/TS_016.mrc/inside.mrc", b"a directory may be called .mrc")
        self.write(f"10001/data/{DEEP}/bottom.txt", b"bottom")
        self.write("10001/data/50%/100%", b"percent")
        self.write("10001/data/README.md", b"# hidden from listings, as Apache does\n")
        self.write("10001/data/.hidden", b"hidden too\n")

    def _sizes(self) -> None:
        for size in (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 972, 973, 1023, 1024):
            self.write(f"10100/data/{size}.bin", self.bytes(size))
        self.write(RANDOM, self.bytes(RANDOM_BYTES))

    def _sparse(self) -> None:
        file = self.write(SPARSE, b"")
        with file.open("r+b") as opened:
            opened.truncate(SPARSE_BYTES)
            for place in SPARSE_MARKS:
                opened.seek(place)
                opened.write(SPARSE_MARK)
        self.date(file)

    def _images(self) -> None:
        # a second and a half that other tests need not wait for
        import mrcfile  # noqa: PLC0415
        import numpy as np  # noqa: PLC0415
        import pandas as pd  # noqa: PLC0415
        import starfile  # noqa: PLC0415
        import tifffile  # noqa: PLC0415

        folder = self.root / "10028/data"
        folder.mkdir(parents=True)
        grain = np.random.default_rng(2028)
        stack = grain.normal(size=(40, 96, 96)).astype(np.float32)
        with mrcfile.new(folder / "stack.mrcs", data=stack) as opened:
            opened.set_image_stack()
        mrcfile.new(folder / "micrograph.mrc", data=stack[0]).close()
        movie = grain.poisson(2.0, size=(12, 200, 200)).astype(np.uint8)
        tifffile.imwrite(folder / "movie.tif", movie, compression="lzw", photometric="minisblack")
        particles = pd.DataFrame(
            {"rlnImageName": [f"{n:06d}@data/stack.mrcs" for n in range(1, 41)], "rlnAnglePsi": stack[:, 0, 0]}
        )
        starfile.write({"particles": particles}, folder / "particles.star")
        for file in sorted(folder.iterdir()):
            self.date(file)


def listed(directory: Path) -> list[str]:
    """Return the names in `directory` that Apache shows, sorted."""
    return sorted(
        name
        for name in os.listdir(directory)  # noqa: PTH208 - names alone
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in _HIDDEN)
    )
