"""Writes MRC, STAR, TIFF and mdoc files without a time in them: the same bytes every time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import mrcfile
import numpy as np
import tifffile
from numpy.typing import NDArray


def mrc(path: Path, image: NDArray[np.generic], pixel: float, *, image_stack: bool = False) -> None:
    """Write `image` with a pixel size of `pixel` Angstrom; three axes are a volume or an `image_stack`."""
    with mrcfile.new(path) as file:
        file.set_data(image)
        if image_stack:
            file.set_image_stack()
        file.voxel_size = pixel
        file.header.label[0] = "Drawn by empiarfs"  # mrcfile's own label contains the time


def star(path: Path, tables: Mapping[str, Mapping[str, Sequence[object]]]) -> None:
    """Write tables, each a list of values for each label, by the name of their block, in RELION's format 3.1.

    Not with starfile, which brings pandas and pyarrow, 250 MB that a mount does not need. Values contain no space.
    """
    lines = ["# version 30001", "", ""]  # by this line RELION recognises format 3.1
    for name, table in tables.items():
        rows = zip(*table.values(), strict=True)
        lines += [
            f"data_{name}",
            "",
            "loop_",
            *(f"_{label} #{number}" for number, label in enumerate(table, start=1)),
            *(
                "\t".join(f"{value:.6f}" if isinstance(value, float) else str(value) for value in row)
                for row in rows
            ),
            "",
            "",
        ]
    path.write_text("\n".join([*lines, ""]))


def tiff(path: Path, frames: NDArray[np.uint8]) -> None:
    """Write `frames`, shape `(frames, height, width)`, one LZW-compressed page each."""
    with tifffile.TiffWriter(path) as file:
        for frame in frames:
            file.write(
                frame,
                compression="lzw",
                photometric="minisblack",
                rowsperstrip=64,
                metadata=None,  # tifffile's own description and date
                software="empiarfs",
            )


def mdoc(path: Path, series: NDArray[np.int16], angles: NDArray[np.float64], pixel: float) -> None:
    """Write the table that SerialEM stores beside a tilt series, with its CRLF line ends and Windows paths."""
    lines = [
        f"PixelSpacing = {pixel}",
        f"ImageFile = {path.stem}",
        f"ImageSize = {series.shape[2]} {series.shape[1]}",
        "DataMode = 1",
        "",
        "[T = SerialEM: Drawn by empiarfs                              17-May-24  12:00:00    ]",
        "",
        "[T =     Tilt axis angle = 90.0, binning = 4  spot = 8  camera = 0]",
    ]
    for number, (angle, image) in enumerate(zip(angles, series, strict=True)):
        lines += [
            "",
            f"[ZValue = {number}]",
            f"TiltAngle = {angle:g}",
            "StagePosition = 20.7936 155.287",
            "StageZ = 163.803",
            "Magnification = 26000",
            "Intensity = 0.115",
            "ExposureDose = 3",
            f"PixelSpacing = {pixel}",
            "SpotSize = 8",
            "Defocus = -3.5",
            "ImageShift = 0 0",
            "RotationAngle = 90",
            "ExposureTime = 0.8",
            "Binning = 4",
            "CameraIndex = 0",
            "DividedBy2 = 0",
            "MagIndex = 24",
            f"MinMaxMean = {image.min()} {image.max()} {image.mean():.3f}",
            "TargetDefocus = -3.5",
            rf"SubFramePath = D:\DATA\Drawn\frames\TS_01_{number:03}_{angle:.1f}.tif",
            "NumSubFrames = 8",
            f"DateTime = 17-May-24  12:{number:02}:00",
        ]
    path.write_text("\r\n".join([*lines, ""]), newline="")
