"""Shows an MRC header and two particles of the built-in archive, read through a mount; part of scripts/demo."""
# ruff: noqa: INP001, T201 - a script, and printing is what it is for

import sys
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float64]

COLUMNS, ROWS = 38, 19  # of a picture; a character is twice as high as wide, and two fit side by side in 80 columns
MARGIN = 8  # pixels of background around a particle
FINEST = 0.12  # cycles a pixel; what is finer is noise
SHADES = {True: " ░▒▓█", False: " .:-=+*#%@"}  # with and without block characters of the terminal


def smoothed(image: Picture) -> Picture:
    """Return `image` without detail finer than `FINEST`."""
    down, across = np.meshgrid(*(np.fft.fftfreq(side) for side in image.shape), indexing="ij")
    kept = np.exp(-((np.hypot(down, across) / FINEST) ** 2))
    calm: Picture = np.fft.ifft2(np.fft.fft2(image) * kept).real
    return calm


def drawn(image: Picture, shades: str) -> list[str]:
    """Return the lines of a picture of `image`, with dense characters for bright pixels."""
    rows = np.linspace(MARGIN, image.shape[0] - 1 - MARGIN, ROWS).round().astype(int)
    columns = np.linspace(MARGIN, image.shape[1] - 1 - MARGIN, COLUMNS).round().astype(int)
    seen = smoothed(image)[np.ix_(rows, columns)]
    low, high = np.percentile(seen, (20, 95))
    levels = (np.clip((seen - low) / (high - low), 0, 1) * (len(shades) - 1)).round().astype(int)
    return ["".join(shades[level] for level in row) for row in levels]


def main(data: Path) -> None:
    """Print what is in the micrographs and particles below `data`."""
    with mrcfile.open(data / "Micrographs" / "mic_001.mrc", header_only=True) as file:
        header = file.header
        print(
            f"  mic_001.mrc      {header.nx} x {header.ny} pixels, mode {header.mode} (float32), "
            f"{file.voxel_size.x:.2f} Å a pixel"
        )
    # image name, class, angle; starfile reads it as a table: pip install 'empiarfs[tables]'
    text = (data / "Particles" / "truth.star").read_text()
    rows = [line.split() for line in text.splitlines() if "@" in line]
    truth = [(int(kind), abs(float(angle))) for _, kind, angle in rows]
    lines: list[list[str]] = []
    shades = SHADES[(sys.stdout.encoding or "").lower().replace("-", "") == "utf8"]
    with mrcfile.mmap(data / "Particles" / "particles.mrcs") as file:
        print(f"  particles.mrcs   {file.data.shape} of {file.data.dtype}, {file.voxel_size.x:.2f} Å a pixel")
        for kind in sorted({kind for kind, _ in truth}):
            # the most upright one, which is easiest to recognise
            number = truth.index(min(one for one in truth if one[0] == kind))
            image = np.asarray(file.data[number], dtype=np.float64)
            spread = f"min {image.min():.2f}, mean {image.mean():.2f}, max {image.max():.2f}"
            print(f"  particle {number + 1:<5}   {image.shape}, {spread}, class {kind}")
            lines.append(drawn(image, shades))
    print()
    for pair in zip(*lines, strict=True):
        print("  " + "  ".join(pair))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
