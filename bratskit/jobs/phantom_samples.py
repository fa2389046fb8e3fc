"""Make the README's pictures of phantoms: `python -m bratskit.jobs.phantom_samples`.

Twenty phantoms beside each other, and their numbers beside those of thirty real cases. Nothing is
chosen: the twenty are the first of their seed.
"""

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bratskit.cases import Phantom, make_phantom
from bratskit.evaluate.likeness import measure_scans, read_real_traits, write_traits
from bratskit.jobs.notebooks import find_notebooks
from bratskit.runtime import progress, write_atomically
from bratskit.visualize.gallery import Tile, draw_gallery, make_tile
from bratskit.visualize.likeness import draw_likeness

__all__ = ["GALLERY", "LIKENESS", "main", "write_phantom_samples"]

GALLERY, LIKENESS = "phantom_gallery.png", "phantom_likeness.png"
_SEED = 2026
_DPI = 110


def write_phantom_samples(
    folder: Path | str,
    *,
    n_gallery: int = 20,
    n_measured: int = 60,
    seed: int = _SEED,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    numbers: Path | str | None = None,
) -> list[Path]:
    """Make phantoms in memory, and write the gallery and the comparison as PNGs.

    Args:
        folder: Usually `samples/`; made if absent.
        n_gallery: Phantoms that are shown.
        n_measured: Phantoms that are measured, those shown among them; about 3 s each.
        seed: Names the cohort, as in `make_cohort`.
        spacing_mm: Voxel size; real cases were measured at 1 mm.
        numbers: JSON to keep the phantoms' numbers in.

    Returns:
        The paths written; each PNG says in its metadata which generator made it.
    """
    tiles, facts = [], {}
    stream = _phantoms(max(n_gallery, n_measured), seed, spacing_mm)
    scans = (phantom.scan for phantom in _showing(stream, tiles, facts, n_gallery))
    made = measure_scans(scans)
    if numbers:
        write_traits(numbers, made)
    how = f"generator {facts['generator']}, seed {seed}"
    figure = draw_likeness(made, read_real_traits(), note=how)
    gallery = draw_gallery(tiles, title=f"The first {len(tiles)} phantoms of seed {seed}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in ((GALLERY, gallery), (LIKENESS, figure.to_png(dpi=_DPI))):
        stamped = _stamped(png, how)
        write_atomically(folder / name, lambda path, data=stamped: path.write_bytes(data))
    return [folder / GALLERY, folder / LIKENESS]


def _phantoms(count: int, seed: int, spacing_mm: tuple[float, float, float]) -> Iterator[Phantom]:
    for number in progress(range(count), "phantoms", total=count):
        name = f"Phantom_{number:05d}"
        yield make_phantom((seed, number), spacing_mm=spacing_mm, case_id=name)


def _showing(
    phantoms: Iterator[Phantom], tiles: list[Tile], facts: dict, n_gallery: int
) -> Iterator[Phantom]:
    """Cut the first phantoms' tiles as they pass, so that no more than one is in memory."""
    for phantom in phantoms:
        facts.update(phantom.truth)
        if len(tiles) < n_gallery:
            tiles.append(make_tile(phantom.scan, note=phantom.truth["growth"]["kind"]))
        yield phantom


def _stamped(png: bytes, how: str) -> bytes:
    text = PngInfo()
    text.add_text("Description", f"{how}: python -m bratskit.jobs.phantom_samples")
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).save(file, format="png", optimize=True, pnginfo=text)
    return file.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the two pictures into `samples/`, or elsewhere, and say how large they are."""
    about = "draw the README's pictures of phantoms"
    parser = argparse.ArgumentParser(
        prog="python -m bratskit.jobs.phantom_samples", description=about
    )
    parser.add_argument("--folder", help="instead of samples/ beside the notebooks")
    parser.add_argument("--measured", type=int, default=60, help="phantoms to measure")
    parser.add_argument("--numbers", help="JSON to keep the phantoms' numbers in")
    options = parser.parse_args(arguments)
    folder = options.folder or find_notebooks("05_*.ipynb")[0].parents[1] / "samples"
    paths = write_phantom_samples(folder, n_measured=options.measured, numbers=options.numbers)
    for path in paths:
        sys.stdout.write(f"{path} {path.stat().st_size / 1000:.0f} kB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
