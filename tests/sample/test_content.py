"""The files of the sample archive: real formats, known contents, equal in every build."""

import hashlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import mrcfile
import numpy as np
import pytest
import starfile
import tifffile

from empiarfs.sample import content, pictures

REPOSITORY = Path(__file__).parents[2]
NAMES = {"e": "http://pdbe.org/empiar"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample archive, built once for all tests that only read."""
    return content.build(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another build, by two processes at once."""
    folder = tmp_path_factory.mktemp("second")
    code = (
        "import pathlib, sys; from empiarfs.sample import content\nprint(content.build(pathlib.Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(folder)]
    both = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {process.communicate(timeout=60)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    (answer,) = answers
    return Path(answer.strip())


@pytest.fixture(scope="module")
def single(archive: Path) -> Path:
    """The data directory of the single-particle entry."""
    return archive / "99001" / "data"


def digest(archive: Path) -> dict[bytes, tuple[int, str]]:
    """Map each path below `archive` to its date and, for a file, the checksum of its bytes."""
    found = {}
    for path in [archive, *archive.rglob("*")]:
        data = path.read_bytes() if path.is_file() else b""
        where = os.fsencode(path.relative_to(archive))
        found[where] = (path.stat().st_mtime_ns, hashlib.sha256(data).hexdigest())
    return found


# building


def test_two_builds_are_equal(archive: Path, second: Path) -> None:
    """Each build gives the same names, the same bytes and the same dates."""
    assert digest(second) == digest(archive)


def test_two_builders_leave_one_build(second: Path) -> None:
    """Processes that build at once leave one build and its lock, and nothing incomplete."""
    folder = second.parents[1]
    assert {path.name for path in folder.iterdir()} == {second.parent.name, f".{second.parent.name}.lock"}


def test_what_is_built_stays(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call returns the same directory and builds nothing."""
    monkeypatch.setattr(content, "_fill", pytest.fail)
    assert content.build(archive.parents[1]) == archive


def test_a_killed_build_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remains of a killed build are deleted, and the next call builds everything."""
    code = (
        "import os, pathlib, signal, sys; from empiarfs.sample import content\n"
        "def die(world):\n"
        "    (world / 'half').touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "content._fill = die\n"
        "content.build(pathlib.Path(sys.argv[1]))"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.rglob("half"))

    monkeypatch.setattr(content, "_fill", lambda archive: (archive / "whole").touch())
    archive = content.build(tmp_path)
    assert [path.name for path in archive.iterdir()] == ["whole"]
    assert list(tmp_path.rglob("half")) == []


def test_a_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that fails, as on a full disk, raises the error and removes what it wrote."""

    def fail(archive: Path) -> None:
        (archive / "half").touch()
        raise OSError(28, "no space left")

    monkeypatch.setattr(content, "_fill", fail)
    with pytest.raises(OSError, match="no space left"):
        content.build(tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_newer_version_has_its_own_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program with another version of the files neither uses nor removes those of the old one."""
    monkeypatch.setattr(content, "_fill", lambda archive: None)
    old = content.build(tmp_path)
    monkeypatch.setattr(content, "VERSION", content.VERSION + 1)
    assert content.build(tmp_path) != old
    assert old.is_dir()


def test_total_size(archive: Path) -> None:
    """The files have between 25 and 60 MB."""
    size = sum(path.stat().st_size for path in archive.rglob("*") if path.is_file())
    assert 25e6 < size < 60e6


# formats


def test_mrc_files_are_valid(archive: Path) -> None:
    """Every MRC file conforms to the MRC2014 standard."""
    found = [
        path for path in archive.rglob("*") if path.suffix.lower() in {".mrc", ".mrcs", ".st"} and path.is_file()
    ]
    report = io.StringIO()
    assert [path.name for path in found if not mrcfile.validate(path, print_file=report)] == [], report.getvalue()
    assert len(found) == 12


def test_micrographs(single: Path) -> None:
    """There are six micrographs of 1024 x 1024 float32 with a pixel size of 1.5 Angstrom."""
    found = sorted((single / "Micrographs").iterdir())
    assert [path.name for path in found] == [f"mic_00{number}.mrc" for number in range(1, 7)]
    for path in found:
        with mrcfile.open(path) as file:
            assert (file.data.shape, file.data.dtype) == ((1024, 1024), np.float32)
            assert float(file.voxel_size.x) == 1.5


def test_particle_stack(single: Path) -> None:
    """The stack holds 512 images of 64 x 64 float32 with a pixel size of 1.5 Angstrom, not a volume."""
    with mrcfile.open(single / "Particles" / "particles.mrcs") as file:
        assert (file.data.shape, file.data.dtype) == ((512, 64, 64), np.float32)
        assert file.is_image_stack()
        assert float(file.voxel_size.x) == 1.5


def test_particles_are_normalised(single: Path) -> None:
    """The background of each particle has mean 0 and standard deviation 1, and the particle is brighter."""
    stack = mrcfile.read(single / "Particles" / "particles.mrcs")
    axis = np.arange(64) - 32
    outside = np.hypot(axis[:, np.newaxis], axis) > 26
    np.testing.assert_allclose(stack[:, outside].mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(stack[:, outside].std(axis=1), 1, atol=1e-4)
    assert (stack[:, ~outside].mean(axis=1) > 0.1).all()


def test_optics_agree_with_the_stack(single: Path) -> None:
    """The optics table has the box size, pixel size and dimensionality of the stack."""
    optics = starfile.read(single / "Particles" / "particles.star")["optics"]
    assert optics["rlnImageSize"].tolist() == [64]
    assert optics["rlnImagePixelSize"].tolist() == [1.5]
    assert optics["rlnImageDimensionality"].tolist() == [2]


def test_particle_names(single: Path) -> None:
    """Each particle is named by its number in the stack, from 1, at a path from the data directory."""
    particles = starfile.read(single / "Particles" / "particles.star")["particles"]
    names = particles["rlnImageName"].str.split("@", expand=True)
    assert names[0].tolist() == [f"{number:06}" for number in range(1, 513)]
    assert (single / names[1].unique().item()).is_file()


def test_particles_lie_where_the_table_says(single: Path) -> None:
    """The box about a particle's coordinates on its micrograph, inverted, is the particle's image."""
    particles = starfile.read(single / "Particles" / "particles.star")["particles"]
    stack = mrcfile.read(single / "Particles" / "particles.mrcs")
    for name, group in particles.groupby("rlnMicrographName"):
        micrograph = mrcfile.read(single / str(name))
        for number, x, y in zip(group.index, group["rlnCoordinateX"], group["rlnCoordinateY"], strict=True):
            box = -micrograph[int(y) - 32 : int(y) + 32, int(x) - 32 : int(x) + 32]
            assert np.corrcoef(box.ravel(), stack[number].ravel())[0, 1] > 0.999


def test_picks_agree_with_the_particles(single: Path) -> None:
    """The coordinate file of a micrograph lists its particles in the order of the particle table."""
    particles = starfile.read(single / "Particles" / "particles.star")["particles"]
    columns = ["rlnCoordinateX", "rlnCoordinateY"]
    for name, group in particles.groupby("rlnMicrographName"):
        picks = starfile.read(single / "Coordinates" / f"{Path(str(name)).stem}_autopick.star")
        assert picks[columns].to_numpy().tolist() == group[columns].to_numpy().tolist()


def test_listed_micrographs_exist(single: Path) -> None:
    """The micrograph table names all six, at paths from the data directory."""
    listed = starfile.read(single / "micrographs.star")["micrographs"]["rlnMicrographName"]
    assert sorted(single / name for name in listed) == sorted((single / "Micrographs").iterdir())


def test_truth(single: Path) -> None:
    """The truth table names the class that each particle resembles most, at its angle."""
    truth = starfile.read(single / "Particles" / "truth.star")
    stack = mrcfile.read(single / "Particles" / "particles.mrcs")
    for image, number, angle in zip(stack, truth["rlnClassNumber"], truth["rlnAnglePsi"], strict=True):
        likeness = [np.corrcoef(image.ravel(), pictures.projection(kind, angle).ravel())[0, 1] for kind in range(2)]
        assert int(np.argmax(likeness)) == number - 1


def test_classes_are_about_equal(single: Path) -> None:
    """Both classes hold well over a third of the particles."""
    counts = starfile.read(single / "Particles" / "truth.star")["rlnClassNumber"].value_counts()
    assert set(counts.index) == {1, 2}
    assert counts.min() > 512 / 3


def test_movies(archive: Path) -> None:
    """Each movie is an LZW-compressed TIFF of twelve pages of 512 x 512 uint8."""
    found = sorted((archive / "99002/data/Movies").iterdir())
    assert [path.name for path in found] == ["movie_001.tif", "movie_002.tif"]
    for path in found:
        with tifffile.TiffFile(path) as file:
            shapes = [(page.shape, str(page.dtype), page.compression.name) for page in file.pages]
        assert shapes == [((512, 512), "uint8", "LZW")] * 12


def test_gain_takes_the_columns_out(archive: Path) -> None:
    """Multiplying a movie by the gain reference removes the columns of the read-out."""
    counts = tifffile.imread(archive / "99002/data/Movies/movie_001.tif").sum(axis=0, dtype=np.float64)
    gain = mrcfile.read(archive / "99002/data/gain.mrc")
    steps = [np.diff(image.mean(axis=0)).std() for image in (counts, counts * gain)]
    assert steps[1] < steps[0] / 2


def test_tilt_series(archive: Path) -> None:
    """The tilt series is a stack of 21 images of 256 x 256 int16, mode 1, with pixels of 5.2 Angstrom."""
    with mrcfile.open(archive / "99003/data/TS_01/TS_01.st") as file:
        assert (file.data.shape, file.data.dtype, int(file.header.mode)) == ((21, 256, 256), np.int16, 1)
        assert float(file.voxel_size.x) == pytest.approx(5.2)


def test_mdoc(archive: Path) -> None:
    """The mdoc holds one section a tilt, numbered from 0, with the angles of the rawtlt file."""
    folder = archive / "99003/data/TS_01"
    lines = (folder / "TS_01.st.mdoc").read_text().splitlines()
    angles = [float(line.partition(" = ")[2]) for line in lines if line.startswith("TiltAngle")]
    assert angles == [float(line) for line in (folder / "TS_01.rawtlt").read_text().splitlines()]
    sections = [line for line in lines if line.startswith("[Z")]
    assert sections == [f"[ZValue = {number}]" for number in range(21)]


def test_mdoc_comes_from_windows(archive: Path) -> None:
    """As SerialEM writes it, the mdoc has CRLF line ends and names its frames by Windows paths."""
    text = (archive / "99003/data/TS_01/TS_01.st.mdoc").read_bytes()
    assert text.count(b"\r\n") == text.count(b"\n") > 400
    assert rb"SubFramePath = D:\DATA\Drawn\frames\TS_01_000_-60.0.tif" in text


def test_a_directory_may_look_like_a_file(archive: Path) -> None:
    """One directory is named like an MRC file."""
    assert [path.name for path in (archive / "99003/data/alignment/TS_01.mrc").iterdir()] == ["TS_01.xf"]


# names


@pytest.mark.parametrize(
    "name",
    [
        b"a#b.txt",
        b"100% done.txt",
        b"percent%41.txt",
        b"a+b=c.txt",
        b"a&b;c.txt",
        b"tilt_007_[-4.00]_EER.txt",
        b"-leading minus.txt",
        b"12:30 focus.txt",
        "Gitter_µ-Åring.txt".encode(),
        b"caf\xe9_latin1.txt",
        b"long_" + b"n" * 246 + b".txt",
        b"README.md",
        b".hidden",
        b"directory with spaces/inside.txt",
        b"l1/l2/l3/l4/l5/l6/l7/l8/deep.txt",
        b"many/tile_0300.txt",
    ],
)
def test_odd_names(archive: Path, name: bytes) -> None:
    """A file with an odd name exists under exactly these bytes and contains its name."""
    path = Path(os.fsdecode(os.fsencode(archive) + b"/99004/data/" + name))
    assert path.read_bytes() == name + b"\n"


def test_smallest_things(archive: Path) -> None:
    """There is a file of no bytes, one of one byte, and a directory with nothing in it."""
    data = archive / "99004/data"
    assert [(data / name).stat().st_size for name in ("empty.dat", "one_byte.dat")] == [0, 1]
    assert list((data / "empty directory").iterdir()) == []


def test_many_files(archive: Path) -> None:
    """One directory holds 300 files."""
    assert len(list((archive / "99004/data/many").iterdir())) == 300


# headers

NUMBERS = (99001, 99002, 99003, 99004)


def header_of(archive: Path, number: int) -> ET.Element:
    """Read the header of entry `number`."""
    return ET.parse(archive / f"{number}/{number}.xml").getroot()  # noqa: S314 # our own file


@pytest.mark.parametrize("number", NUMBERS)
def test_header_names_its_entry(archive: Path, number: int) -> None:
    """A header is in EMPIAR's namespace and carries the accession and the DOI of its entry."""
    header = header_of(archive, number)
    assert header.tag == "{http://pdbe.org/empiar}entry"
    assert header.get("accessionCode") == f"EMPIAR-{number}"
    assert header.findtext("e:admin/e:entryDOI", namespaces=NAMES) == f"10.6019/EMPIAR-{number}"


@pytest.mark.parametrize("number", NUMBERS)
def test_header_knows_the_size(archive: Path, number: int) -> None:
    """A header gives the size of the data to a tenth of a 1024-based megabyte."""
    files = [path for path in (archive / f"{number}/data").rglob("*") if path.is_file()]
    element = header_of(archive, number).find("e:admin/e:datasetSize", NAMES)
    assert element is not None
    assert element.get("units") == "MB"
    assert float(element.text or "") == pytest.approx(sum(path.stat().st_size for path in files) / 2**20, abs=0.051)


def test_headers_have_the_quirks_of_real_ones(archive: Path) -> None:
    """An ampersand is escaped twice, and one directory of image sets begins with a slash."""
    text = (archive / "99002/99002.xml").read_text(encoding="utf-8")
    assert "Drawings &amp;amp; Other Pictures" in text
    assert "<directory>/data/Movies</directory>" in text


def test_image_sets_have_their_directories(archive: Path) -> None:
    """The image sets of all entries lie in four directories, which exist."""
    found = [
        archive / str(number) / element.findtext("e:directory", "", NAMES).lstrip("/")
        for number in NUMBERS
        for element in header_of(archive, number).findall("e:imageSet", NAMES)
    ]
    assert [path.name for path in found] == ["Micrographs", "Particles", "Movies", "TS_01"]
    assert all(path.is_dir() for path in found)


@pytest.mark.parametrize(("number", "count"), [(99001, 6), (99002, 2)])
def test_patterns_find_the_files(archive: Path, number: int, count: int) -> None:
    """The pattern of an image set finds from the entry's root as many files as the set says it has."""
    image_set = header_of(archive, number).find("e:imageSet", NAMES)
    assert image_set is not None
    pattern = image_set.findtext("e:micrographsFilePattern", "", NAMES)
    assert image_set.findtext("e:numImagesOrTiltSeries", "", NAMES) == str(count)
    assert len(list((archive / str(number)).glob(pattern))) == count
