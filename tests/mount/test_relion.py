"""RELION on a mount: run as an ordinary user runs it, from a project elsewhere that links into the mount."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
from numpy.typing import NDArray
from support import sandbox
from support.apache import Apache
from support.mounting import BINDINGS, Mount, Mounts

from empiarfs.sample import content, pictures
from empiarfs.sample.entries import PARTICLES, PIXEL

EXTRACT = (
    *("relion_preprocess", "--i", "micrographs.star", "--coord_dir", "Coordinates/"),
    *("--coord_suffix", "_autopick.star", "--part_star", "Extract/particles.star", "--part_dir", "Extract/"),
    *("--extract", "--extract_size", str(pictures.BOX)),
)
NORMALISE = (
    *("--invert_contrast", "--norm", "--no_ramp"),
    *("--bg_radius", str(round(pictures.BACKGROUND_RADIUS))),
)
CLASS_2D = (
    *("relion_refine", "--i", "Particles/particles.star", "--o", "Class2D/run", "--K", "2"),
    *("--particle_diameter", "84", "--tau2_fudge", "2", "--offset_range", "2", "--offset_step", "2"),
    *("--oversampling", "0", "--zero_mask", "--norm", "--scale", "--pool", "30", "--random_seed", "1"),
)
# each starts from one particle as it is, in all its noise; one thread, so that sums come in the same order
TWO_ITERATIONS = (
    *(*CLASS_2D, "--iter", "2", "--ref", "references.star", "--firstiter_cc", "--ini_high", "12"),
    *("--psi_step", "6", "--j", "1"),
)
FROM_NOTHING = (*CLASS_2D, "--iter", "5", "--psi_step", "12", "--j", "2")

ALIKE = 0.9  # of the particles sorted as they should be; chance gives 0.5 to 0.55
LABELS, HEADER = 220, 1024  # bytes; where the labels of an MRC header begin and end, with their number
PRINTED = 2e-5  # RELION prints six digits of single precision sums
README_DATA = "~/empiar/10028/data"


def readme_links() -> list[str]:
    """Return the commands with which docs/using.md links an entry's data into a project."""
    text = (sandbox.PROJECT / "docs" / "using.md").read_text(encoding="utf-8")
    section = text[text.index("## RELION") : text.index("## Python")]
    return re.findall(r"(?:mkdir \w+ && )?ln -s ~/empiar/[\w/]+ [\w/]+", section)


@dataclass(frozen=True, slots=True)
class Project:
    """A RELION project of an ordinary user, linked by the commands of the README.

    Attributes:
        folder: where RELION runs and writes; made here.
        source: what the project's links point to: the entry's data in a mount, or a copy of them.
        mount: whose user RELION runs as.
    """

    folder: Path
    source: Path
    mount: Mount

    def __post_init__(self) -> None:
        self.mount.account.mkdir(self.folder)
        (self.folder / "micrographs.star").symlink_to(self.source / "micrographs.star")
        for command in readme_links():
            done = self.mount.run("sh", "-ec", command.replace(README_DATA, str(self.source)), cwd=self.folder)
            assert done.returncode == 0, done.stderr
        links = {path.name for path in self.folder.iterdir()}
        assert links == {"Coordinates", "Micrographs", "Particles", "micrographs.star"}

    def tried(self, *command: str) -> tuple[int, str]:
        """Run a program of RELION in the project; return its status and its output."""
        assert shutil.which(command[0]), f"there is no {command[0]}: apt install relion, or build RELION"
        done = self.mount.run(*command, cwd=self.folder, timeout=90)
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace")

    def run(self, *command: str) -> str:
        """Run a program that must succeed; return its output."""
        status, words = self.tried(*command)
        assert status == 0, words
        return words

    def empty(self, name: str) -> None:
        """Make an empty output directory for a job, because tests share the project."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        self.mount.account.mkdir(self.folder / name)


@pytest.fixture(scope="module")
def sample_files() -> Iterator[Path]:
    """The files of the sample archive; RELION never reads these directly."""
    # not one of pytest's folders: Apache serves as nobody, and each pytest that starts closes them all
    with tempfile.TemporaryDirectory(prefix="empiarfs-") as folder:
        Path(folder).chmod(0o755)
        yield content.build(Path(folder))


@pytest.fixture(scope="module")
def data(sample_files: Path) -> Path:
    """The data of the entry with particles, as the server has them."""
    return sample_files / "99001" / "data"


@pytest.fixture(scope="module", params=BINDINGS)
def project(
    request: pytest.FixtureRequest,
    own_machine: None,
    sample_files: Path,
) -> Iterator[Project]:
    """A project of an ordinary user, linked to a mount of an Apache with the sample archive, by both bindings."""
    server = Apache(sample_files)
    folder = Path(tempfile.mkdtemp(prefix="empiarfs-"))
    folder.chmod(0o755)
    mounts = Mounts(folder, server.url)
    try:
        with mounts.watched(110):
            mount = mounts("99001", binding=request.param, user="user")
            yield Project(mount.account.home / "project", mount / "99001/data", mount)
        mounts.finish()
    finally:
        server.close()


@pytest.fixture
def local(project: Project, data: Path, request: pytest.FixtureRequest) -> Project:
    """The same project, linked to a copy of the files on the local disk."""
    folder = project.mount.account.mkdir(project.folder.with_name(request.node.originalname))
    shutil.copytree(data, folder / "copy")
    return Project(folder / "project", folder / "copy", project.mount)


def images(path: Path) -> NDArray[np.float64]:
    """Return the images of an MRC file."""
    with mrcfile.open(path) as file:
        return np.asarray(file.data, dtype=np.float64)


def table(path: Path, block: str) -> pd.DataFrame:
    """Return a block of a STAR file."""
    found: Any = starfile.read(path, always_dict=True)
    frame: pd.DataFrame = found[block]
    return frame


def written(project: Project, job: str) -> dict[str, bytes]:
    """Return the files that a job has written, by name, MRC files without their labels, which hold the time."""
    found = {}
    for path in (project.folder / job).rglob("*"):
        if path.is_file():
            whole = path.read_bytes()
            is_mrc = path.suffix == ".mrcs"
            found[str(path.relative_to(project.folder))] = (whole[:LABELS] + whole[HEADER:]) if is_mrc else whole
    return found


def agreement(result: Path, data: Path) -> tuple[float, list[int]]:
    """Return the share of particles that RELION classified as they were drawn, and the size of each class."""
    found = table(result, "particles").merge(
        table(data / "Particles" / "truth.star", "truth"), on="rlnImageName", suffixes=("", "_true")
    )
    assert len(found) == sum(PARTICLES)
    share = float((found["rlnClassNumber"] == found["rlnClassNumber_true"]).mean())
    # which class is called 1 is RELION's choice
    return max(share, 1 - share), found["rlnClassNumber"].value_counts().tolist()


def with_references(project: Project, data: Path) -> None:
    """Write the table of references: for each kind the particle that is most upright."""
    truth = table(data / "Particles" / "truth.star", "truth")
    upright = truth.assign(lean=truth["rlnAnglePsi"].abs()).sort_values("lean").drop_duplicates("rlnClassNumber")
    names = "".join(f"{name}\n" for name in upright.sort_values("rlnClassNumber")["rlnImageName"])
    (project.folder / "references.star").write_text(f"\ndata_\n\nloop_\n_rlnReferenceImage #1\n{names}")


def test_import_takes_links_and_refuses_absolute_paths(project: Project) -> None:
    """RELION refuses absolute paths and imports through the links of the README."""
    command = ("relion_import", "--do_micrographs", "--odir", "Import/", "--ofile", "micrographs.star", "--i")
    project.empty("Import")
    _, words = project.tried(*command, f"{project.source}/Micrographs/*.mrc")
    assert "relative path" in words
    assert not (project.folder / "Import" / "micrographs.star").exists()
    project.run(*command, "Micrographs/*.mrc", "--angpix", str(PIXEL))
    imported = table(project.folder / "Import" / "micrographs.star", "micrographs")
    assert imported["rlnMicrographName"].tolist() == [f"Micrographs/mic_{number:03}.mrc" for number in range(1, 7)]


def test_coordinates_are_imported_through_links(project: Project, data: Path) -> None:
    """`relion_import --do_coordinates` copies every file through the links, and the result can be deleted."""
    project.empty("Import")
    command = ("relion_import", "--do_coordinates", "--odir", "Import/", "--ofile", "coords_suffix_autopick.star")
    project.run(*command, "--i", "Coordinates/Micrographs/*_autopick.star")
    imported = project.folder / "Import" / "Coordinates" / "Micrographs"
    assert {path.name: path.read_bytes() for path in imported.iterdir()} == {
        path.name: path.read_bytes() for path in (data / "Coordinates").glob("*_autopick.star")
    }
    assert len(list(imported.iterdir())) == len(PARTICLES)
    project.run("rm", "-rf", "Import")
    assert not (project.folder / "Import").exists()


def test_statistics_of_a_stack_are_numpys(project: Project, data: Path) -> None:
    """`relion_image_handler --stats` prints the statistics that numpy computes for each particle."""
    printed = project.run("relion_image_handler", "--i", "Particles/particles.mrcs", "--stats")
    found = re.findall(r"avg= (\S+) stddev= (\S+) minval= (\S+) maxval= (\S+); angpix = (\S+)", printed)
    stack = images(data / "Particles" / "particles.mrcs")
    axes = (1, 2)
    pixel = np.full(len(stack), PIXEL)
    true = np.stack([stack.mean(axes), stack.std(axes), stack.min(axes), stack.max(axes), pixel], axis=1)
    np.testing.assert_allclose(np.array(found, dtype=np.float64), true, rtol=PRINTED, atol=PRINTED)


def test_extraction_cuts_the_pixels_of_the_micrographs(project: Project, data: Path) -> None:
    """`relion_preprocess` extracts from mounted micrographs exactly the pixels that numpy extracts."""
    project.empty("Extract")
    project.run(*EXTRACT)
    assert len(table(project.folder / "Extract" / "particles.star", "particles")) == sum(PARTICLES)
    half = pictures.BOX // 2
    for number, count in enumerate(PARTICLES, start=1):
        whole = images(data / "Micrographs" / f"mic_{number:03}.mrc")
        picked = table(data / "Coordinates" / f"mic_{number:03}_autopick.star", "")
        places = picked[["rlnCoordinateX", "rlnCoordinateY"]].to_numpy().astype(int)
        cut = np.stack([whole[y - half : y + half, x - half : x + half] for x, y in places])
        extracted = images(project.folder / "Extract" / "Micrographs" / f"mic_{number:03}.mrcs")
        assert extracted.shape == (count, pictures.BOX, pictures.BOX)
        np.testing.assert_array_equal(extracted, cut)


def test_normalised_extraction_gives_the_stack_of_the_entry(project: Project, data: Path) -> None:
    """Extraction with inverted contrast and normalisation returns the particles of the entry."""
    project.empty("Extract")
    project.run(*EXTRACT, *NORMALISE)
    extracted = [images(path) for path in sorted((project.folder / "Extract" / "Micrographs").glob("*.mrcs"))]
    stack = images(data / "Particles" / "particles.mrcs")
    np.testing.assert_allclose(np.concatenate(extracted), stack, rtol=0, atol=1e-3)


def test_extraction_writes_what_it_writes_from_a_local_disk(project: Project, local: Project) -> None:
    """`relion_preprocess` writes the same bytes from a mount as from a local disk."""
    for one in (project, local):
        one.empty("Extract")
        one.run(*EXTRACT, *NORMALISE)
    assert written(project, "Extract") == written(local, "Extract")


def test_two_classes_come_apart(project: Project, local: Project, data: Path) -> None:
    """Two iterations of 2D classification separate the classes, with the same bytes as from a local disk."""
    for one in (project, local):
        one.empty("Class2D")
        with_references(one, data)
        one.run(*TWO_ITERATIONS)
    share, members = agreement(project.folder / "Class2D" / "run_it002_data.star", data)
    assert share > ALIKE, members
    assert len(members) == 2
    assert written(project, "Class2D") == written(local, "Class2D")


def test_two_classes_come_apart_from_nothing(project: Project, data: Path) -> None:
    """2D classification without references separates the two classes."""
    project.empty("Class2D")
    project.run(*FROM_NOTHING)
    share, members = agreement(project.folder / "Class2D" / "run_it005_data.star", data)
    assert share > ALIKE, members
    assert len(members) == 2


def test_star_handler_selects_rows_of_a_mounted_table(project: Project, data: Path) -> None:
    """`relion_star_handler` selects the rows that pandas selects."""
    selection = ("--select", "rlnCoordinateX", "--minval", "500", "--maxval", "800")
    project.run("relion_star_handler", "--i", "Particles/particles.star", "--o", "selected.star", *selection)
    particles = table(data / "Particles" / "particles.star", "particles")
    expected = particles[particles["rlnCoordinateX"].between(500, 800)]
    selected = table(project.folder / "selected.star", "particles")
    assert 0 < len(expected) < len(particles)
    pd.testing.assert_frame_equal(selected, expected.reset_index(drop=True), check_like=True)
