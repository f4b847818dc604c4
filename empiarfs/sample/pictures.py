"""The synthetic images as arrays: two recognisable particles, micrographs, a movie, a tilt series; no files.

A picture is indexed `[y, x]` and lengths are pixels. The same seed gives the same pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]

BOX = 64  # side of a particle box; particles stay within 23 pixels of the centre
BACKGROUND_RADIUS = 26.0  # pixels of a box farther out than this are background
KINDS = 2  # 0 is a letter E, 1 a ring with a bar through it

_EDGE = 2.0  # an edge falls from 1 to 0 over this width, so that rotated edges are smooth
_CONTRAST = 1.0  # how much darker than the ice a particle is, at a noise of 1
_CELL = 94  # a micrograph is a grid of such cells, with at most one particle in each
_JITTER = 11  # how far from the centre of its cell a particle may be: no two are closer than 72


@dataclass(frozen=True, slots=True)
class Particle:
    """The position of a particle (`x`, `y`), its `kind`, and its rotation in degrees (`angle`)."""

    x: int
    y: int
    kind: int
    angle: float


def projection(kind: int, angle: float) -> Picture:
    """Draw one particle without noise, rotated by `angle` degrees: shape `(BOX, BOX)`, 0 outside, 1 inside."""
    axis = np.arange(BOX, dtype=np.float32) - BOX // 2
    across, down = np.meshgrid(axis, axis)
    turn = np.deg2rad(angle)
    x = across * np.cos(turn) + down * np.sin(turn)
    y = down * np.cos(turn) - across * np.sin(turn)
    depth = _letter(x, y) if kind == 0 else _ring(x, y)
    drawn: Picture = np.clip(0.5 - depth / _EDGE, 0, 1).astype(np.float32)
    return drawn


def scatter(count: int, size: int, seed: int) -> list[Particle]:
    """Choose positions, kinds and angles for `count` particles on a micrograph of side `size`; none overlap."""
    chance = np.random.default_rng(seed)
    cells = (size - 2 * (BOX // 2)) // _CELL
    margin = (size - cells * _CELL) // 2 + _CELL // 2
    chosen = np.sort(chance.choice(cells * cells, size=count, replace=False))
    shifts = chance.integers(-_JITTER, _JITTER + 1, size=(count, 2))
    kinds = chance.integers(0, KINDS, size=count)
    angles = chance.uniform(-180, 180, size=count)
    return [
        Particle(
            x=int(margin + cell % cells * _CELL + shift[0]),
            y=int(margin + cell // cells * _CELL + shift[1]),
            kind=int(kind),
            angle=round(float(angle), 3),
        )
        for cell, shift, kind, angle in zip(chosen, shifts, kinds, angles, strict=True)
    ]


def scene(particles: list[Particle], size: int) -> Picture:
    """Draw `particles` without noise on a square of side `size`: 0 in the ice, 1 within a particle."""
    drawn = np.zeros((size, size), dtype=np.float32)
    for one in particles:
        drawn[box_of(one)] += projection(one.kind, one.angle)
    return drawn


def micrograph(particles: list[Particle], size: int, seed: int) -> Picture:
    """Draw a micrograph: dark particles in ice of mean 30 and noise 1, a little brighter towards one corner."""
    noise = np.random.default_rng(seed).standard_normal((size, size), dtype=np.float32)
    slope = np.linspace(-1, 1, size, dtype=np.float32)
    ice = 30 + 0.2 * (slope[:, np.newaxis] + slope[np.newaxis, :])
    return (ice + noise - _CONTRAST * scene(particles, size)).astype(np.float32)


def stack(image: Picture, particles: list[Particle]) -> Picture:
    """Cut the particles out of their micrograph, bright on dark: shape `(n, BOX, BOX)`, background 0 +- 1."""
    axis = np.arange(BOX) - BOX // 2
    outside = np.hypot(axis[:, np.newaxis], axis[np.newaxis, :]) > BACKGROUND_RADIUS
    cut = np.stack([-image[box_of(one)] for one in particles])
    background = cut[:, outside]
    mean = background.mean(axis=1)[:, np.newaxis, np.newaxis]
    spread = background.std(axis=1)[:, np.newaxis, np.newaxis]
    normalised: Picture = ((cut - mean) / spread).astype(np.float32)
    return normalised


def box_of(particle: Particle) -> tuple[slice, slice]:
    """Return the rows and columns of a particle's box; as in RELION its centre is pixel `BOX // 2`, from 0."""
    top, left = particle.y - BOX // 2, particle.x - BOX // 2
    return slice(top, top + BOX), slice(left, left + BOX)


def gain(size: int, seed: int) -> Picture:
    """Draw a gain reference to multiply raw counts with: about 1, with the columns of a camera's read-out."""
    chance = np.random.default_rng(seed)
    columns = chance.normal(0, 0.02, size=(1, size))
    return (1 + columns + chance.normal(0, 0.03, size=(size, size))).clip(0.5, 1.5).astype(np.float32)


def movie(drawn: Picture, reference: Picture, frames: int, seed: int) -> NDArray[np.uint8]:
    """Count electrons, about 2 a pixel, over a drifting scene: shape `(frames, side, side)`, no gain."""
    chance = np.random.default_rng(seed)
    drift = np.cumsum(chance.normal(0.4, 0.2, size=(frames, 2)), axis=0)
    side = drawn.shape[0]
    wave = np.fft.fft2(drawn)
    frequency = np.fft.fftfreq(side)
    counts = np.empty((frames, side, side), dtype=np.uint8)
    for number, (down, across) in enumerate(drift):
        phase = frequency[:, np.newaxis] * down + frequency[np.newaxis, :] * across
        moved = np.fft.ifft2(wave * np.exp(-2j * np.pi * phase)).real
        counts[number] = chance.poisson(2 * (1 - 0.4 * moved).clip(0.1) / reference).clip(0, 255)
    return counts


def tilt_series(angles: NDArray[np.float64], side: int, seed: int) -> NDArray[np.int16]:
    """Tilt gold beads in a slab of ice about the y axis: shape `(tilts, side, side)`, darker when tilted."""
    chance = np.random.default_rng(seed)
    half = side / 2
    beads = chance.uniform((-half, 8, -20), (half, side - 8, 20), size=(30, 3))
    down, across = np.mgrid[0:side, 0:side]
    series = np.empty((len(angles), side, side), dtype=np.int16)
    for number, angle in enumerate(np.deg2rad(angles)):
        light = 900 * np.exp(-0.4 / np.cos(angle))
        gold = np.zeros((side, side))
        for x, y, z in beads:
            seen = half + x * np.cos(angle) + z * np.sin(angle)
            gold += np.exp(-((across - seen) ** 2 + (down - y) ** 2) / (2 * 2.5**2))
        noise = chance.normal(0, 0.12, size=(side, side))
        series[number] = np.rint(light * (1 - 0.7 * gold.clip(0, 1) + noise)).clip(0, 32767)
    return series


def _letter(x: Picture, y: Picture) -> Picture:
    """Return the signed distance to the outline of an E, negative inside; a spine and three arms."""
    spine = _block(x + 10, y, half_width=4.0, half_height=18.5)
    arms = [_block(x - 1, y - middle, half_width=13.0, half_height=3.5) for middle in (-15, 0, 15)]
    nearest: Picture = np.stack([spine, *arms]).min(axis=0)
    return nearest


def _ring(x: Picture, y: Picture) -> Picture:
    """Return the signed distance to the outline of a ring with a bar through it, negative inside."""
    ring = np.abs(np.hypot(x, y) - 17) - 3.5
    nearest: Picture = np.minimum(ring, _block(x, y, half_width=15.0, half_height=3.5))
    return nearest


def _block(x: Picture, y: Picture, *, half_width: float, half_height: float) -> Picture:
    """Return the signed distance to a rectangle about the origin; exact inside, approximate outside."""
    nearest: Picture = np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)
    return nearest
