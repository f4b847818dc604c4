"""The four entries of the built-in archive, file by file: particles, movies, a tilt series, odd names."""

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from empiarfs.sample import formats, header, pictures

PIXEL = 1.5  # Angstrom; of the micrographs, the particles and the movies
TILT_PIXEL = 5.2  # Angstrom
MICROGRAPH_SIDE = 1024
PARTICLES = (86, 86, 85, 85, 85, 85)  # on each micrograph; 512 in all
MOVIE_SIDE = 512
FRAMES = 12
TILT_SIDE = 256
TILTS = np.arange(-60.0, 61.0, 6.0)  # degrees

_OPTICS: dict[str, list[object]] = {
    "rlnOpticsGroupName": ["opticsGroup1"],
    "rlnOpticsGroup": [1],
    "rlnMicrographOriginalPixelSize": [PIXEL],
    "rlnVoltage": [300.0],
    "rlnSphericalAberration": [2.7],
    "rlnAmplitudeContrast": [0.1],
}


@dataclass(frozen=True, slots=True)
class Entry:
    """The title and image sets of an entry; `fill` writes its files into its `data` directory."""

    title: str
    experiment: str
    fill: Callable[[Path], None]
    image_sets: tuple[header.ImageSet, ...]


def write(entry: Entry, number: int, folder: Path) -> None:
    """Create `folder` and write the data and the header of `entry` into it."""
    data = folder / "data"
    data.mkdir(parents=True)
    entry.fill(data)
    size = sum(path.stat().st_size for path in data.rglob("*") if path.is_file())
    text = header.xml(
        number, title=entry.title, experiment=entry.experiment, size_bytes=size, image_sets=entry.image_sets
    )
    (folder / f"{number}.xml").write_bytes(text)


def _single_particle(data: Path) -> None:
    for name in ("Micrographs", "Coordinates", "Particles"):
        (data / name).mkdir()
    particles, images, micrographs = [], [], []
    for number, count in enumerate(PARTICLES, start=1):
        name = f"mic_{number:03}"
        found = pictures.scatter(count, MICROGRAPH_SIDE, seed=100 + number)
        image = pictures.micrograph(found, MICROGRAPH_SIDE, seed=200 + number)
        formats.mrc(data / "Micrographs" / f"{name}.mrc", image, PIXEL)
        formats.star(data / "Coordinates" / f"{name}_autopick.star", {"": _coordinates(found)})
        images.append(pictures.stack(image, found))
        particles += found
        micrographs += [f"Micrographs/{name}.mrc"] * count
    formats.mrc(data / "Particles" / "particles.mrcs", np.concatenate(images), PIXEL, image_stack=True)
    _particle_tables(data, particles, micrographs)


def _particle_tables(data: Path, particles: list[pictures.Particle], micrographs: list[str]) -> None:
    names = [f"{number:06}@Particles/particles.mrcs" for number in range(1, len(particles) + 1)]
    group = [1] * len(particles)
    defocus = {name: 12000.0 + 1000 * number for number, name in enumerate(dict.fromkeys(micrographs))}
    depths = np.array([defocus[name] for name in micrographs])  # Angstrom, one for each micrograph
    optics = _OPTICS | {
        "rlnImagePixelSize": [PIXEL],
        "rlnImageSize": [pictures.BOX],
        "rlnImageDimensionality": [2],
    }
    table: dict[str, Sequence[object]] = {
        **_coordinates(particles),
        "rlnImageName": names,
        "rlnMicrographName": micrographs,
        "rlnOpticsGroup": group,
        "rlnDefocusU": list(depths + 150),
        "rlnDefocusV": list(depths - 150),
        "rlnDefocusAngle": [30.0] * len(particles),
    }
    formats.star(data / "Particles" / "particles.star", {"optics": optics, "particles": table})
    truth: dict[str, Sequence[object]] = {
        "rlnImageName": names,
        "rlnClassNumber": [one.kind + 1 for one in particles],
        "rlnAnglePsi": [one.angle for one in particles],
    }
    formats.star(data / "Particles" / "truth.star", {"truth": truth})
    listed = list(defocus)
    formats.star(
        data / "micrographs.star",
        {
            "optics": _OPTICS | {"rlnMicrographPixelSize": [PIXEL]},
            "micrographs": {"rlnMicrographName": listed, "rlnOpticsGroup": [1] * len(listed)},
        },
    )


def _coordinates(particles: list[pictures.Particle]) -> dict[str, list[float]]:
    return {
        "rlnCoordinateX": [float(one.x) for one in particles],
        "rlnCoordinateY": [float(one.y) for one in particles],
    }


def _movies(data: Path) -> None:
    reference = pictures.gain(MOVIE_SIDE, seed=300)
    formats.mrc(data / "gain.mrc", reference, PIXEL)
    (data / "gain_note.txt").write_text(
        "The movies are counts without gain: multiply each frame by gain.mrc, row by row as in the files.\n"
        "RELION reads TIFF upside down and MRC not: there it takes --gain_flip 1.\n"
    )
    (data / "Movies").mkdir()
    for number in (1, 2):
        found = pictures.scatter(16, MOVIE_SIDE, seed=310 + number)
        drawn = pictures.scene(found, MOVIE_SIDE)
        frames = pictures.movie(drawn, reference, FRAMES, seed=320 + number)
        formats.tiff(data / "Movies" / f"movie_{number:03}.tif", frames)


def _tomography(data: Path) -> None:
    series = pictures.tilt_series(TILTS, TILT_SIDE, seed=400)
    folder = data / "TS_01"
    folder.mkdir()
    formats.mrc(folder / "TS_01.st", series, TILT_PIXEL, image_stack=True)
    formats.mdoc(folder / "TS_01.st.mdoc", series, TILTS, TILT_PIXEL)
    (folder / "TS_01.rawtlt").write_text("".join(f"{angle:7.2f}\n" for angle in TILTS))
    alignment = data / "alignment" / "TS_01.mrc"  # a directory in spite of its name, as in entry 11561
    alignment.mkdir(parents=True)
    unmoved = "   1.0000000   0.0000000   0.0000000   1.0000000       0.000       0.000\n"
    (alignment / "TS_01.xf").write_text(unmoved * len(TILTS))


def _odd_names(data: Path) -> None:
    texts = [
        "a#b.txt",
        "100% done.txt",
        "percent%41.txt",  # this name after decoding once, another after decoding twice
        "a+b=c.txt",
        "a&b;c.txt",
        "fish&amp;chips.txt",
        "what?.txt",
        'it\'s <"quoted">.txt',
        "tilt_007_[-4.00]_EER.txt",
        "12:30 focus.txt",  # Apache writes ./ before a name with a colon
        "-leading minus.txt",
        "Gitter_µ-Åring.txt",
        os.fsdecode(b"caf\xe9_latin1.txt"),  # not UTF-8
        "fifty_" + "x" * 40 + ".txt",  # the longest name that a listing shows whole
        "fifty-one_" + "x" * 37 + ".txt",
        "long_" + "n" * 246 + ".txt",  # 255 bytes, the most a Linux file system takes
        "README.md",  # listings hide this one and the next
        ".hidden",
        "directory with spaces/inside.txt",
        "l1/l2/l3/l4/l5/l6/l7/l8/deep.txt",
        *(f"many/tile_{number:04}.txt" for number in range(1, 301)),
    ]
    for name in texts:
        _odd_file(data / name, os.fsencode(f"{name}\n"))
    _odd_file(data / "empty.dat", b"")
    _odd_file(data / "one_byte.dat", b"1")
    (data / "empty directory").mkdir()
    small = pictures.projection(0, angle=0)
    for name in ("ts_002.mrc_9.98Apx.mrc", "UPPER.MRC", "sb1_210512 pos 10 1-1_1.mrc"):
        formats.mrc(data / name, small, PIXEL)
    formats.tiff(data / "slice_02534_z=12.6376um.tif", (small * 200).astype(np.uint8)[np.newaxis])


def _odd_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_bytes(content)
    except OSError as error:
        # some file systems refuse such a name (eCryptfs: over 143 bytes; ZFS may insist on UTF-8): leave it out
        if error.errno not in {errno.EILSEQ, errno.EINVAL, errno.ENAMETOOLONG}:
            raise


ENTRIES = {
    99001: Entry(
        title="Two synthetic particles in ice: a letter and a ring",
        experiment="EMDB",
        fill=_single_particle,
        image_sets=(
            header.ImageSet(
                name="Micrographs",
                directory="data/Micrographs",
                category="micrographs - single frame",
                data_format="MRC",
                count=len(PARTICLES),
                frames=1,
                voxel_type="32 BIT FLOAT",
                side=MICROGRAPH_SIDE,
                pixel=PIXEL,
                details="Dark particles, no CTF. Coordinates: data/Coordinates, one STAR file a micrograph.",
                micrographs_pattern="data/Micrographs/mic_*.mrc",
            ),
            header.ImageSet(
                name="Picked particles",
                directory="data/Particles",
                category="picked particles - single frame - processed",
                data_format="MRCS",
                count=sum(PARTICLES),
                frames=1,
                voxel_type="32 BIT FLOAT",
                side=pictures.BOX,
                pixel=PIXEL,
                details="Bright particles, background normalised to 0 ± 1. True classes: truth.star.",
                particles_pattern="data/Particles/particles.mrcs",
                particles_directory="data/Particles",
            ),
        ),
    ),
    99002: Entry(
        title="Two synthetic movies with their gain reference",
        experiment="EMDB",
        fill=_movies,
        image_sets=(
            header.ImageSet(
                name="Movies",
                directory="/data/Movies",  # with the leading slash that real headers have
                category="micrographs - multiframe",
                data_format="TIFF",
                count=2,
                frames=FRAMES,
                voxel_type="UNSIGNED BYTE",
                side=MOVIE_SIDE,
                pixel=PIXEL,
                details="Electron counts, LZW compressed, gain not applied: multiply by data/gain.mrc.",
                micrographs_pattern="data/Movies/movie_*.tif",
            ),
        ),
    ),
    99003: Entry(
        title="A synthetic tilt series of gold beads",
        experiment="EMDB",
        fill=_tomography,
        image_sets=(
            header.ImageSet(
                name="Tilt series",
                directory="data/TS_01",
                category="tilt series",
                data_format="MRC",
                count=1,
                frames=len(TILTS),
                voxel_type="SIGNED 16 BIT INTEGER",
                side=TILT_SIDE,
                pixel=TILT_PIXEL,
                details="From -60° to 60° by 6°, tilted about the y axis.",
            ),
        ),
    ),
    99004: Entry(title="Names that are hard to carry", experiment="INSILICO", fill=_odd_names, image_sets=()),
}
