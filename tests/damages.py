"""Damage a case on disk on purpose, each in one way that has a name."""

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from bratskit.cases import Case
from bratskit.labels import MODALITIES


@dataclass(frozen=True)
class Damage:
    """One way to damage a case, and what the doctor must say of it and nothing else.

    Attributes:
        name: For the name of the test.
        apply: Damages the files; called with the case and a generator.
        kind: Kind of the finding.
        severity: Its severity.
        says: Part of what it says.
        where: Files that it must name: modalities, "seg", or "" for the case as a whole.
    """

    name: str
    apply: Callable[[Case, np.random.Generator], None]
    kind: str
    severity: str
    says: str
    where: tuple[str, ...]


def path_of(case: Case, kind: str) -> Path:
    return Path(case.labels_path if kind == "seg" else case.paths[kind])


def edit(case: Case, kind: str, change: Callable[[np.ndarray], np.ndarray], **header: int) -> None:
    """Put the voxels of one file through `change`; keep its grid, and set fields of its header."""
    path = path_of(case, kind)
    image = nib.load(path)
    array = change(np.asarray(image.dataobj).copy())
    made = nib.Nifti1Image(array, image.affine, image.header)
    made.set_data_dtype(array.dtype)
    for field, value in header.items():
        made.header[field] = value
    nib.save(made, path)


def move(case: Case, kind: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the affine of one file, in qform and sform, and leave its voxels."""
    path = path_of(case, kind)
    image = nib.load(path)
    affine = change(image.affine.copy())
    made = nib.Nifti1Image(np.asarray(image.dataobj), affine, image.header)
    made.set_qform(affine, 1)
    made.set_sform(affine, 1)
    nib.save(made, path)


def brain_of(case: Case) -> np.ndarray:
    """Find the brain in the order of the voxels on disk."""
    return np.all([np.asarray(nib.load(path).dataobj) != 0 for path in case.paths.values()], axis=0)


# --- files -----------------------------------------------------------------------------------


def lose(case, rng, kind):
    path_of(case, kind).unlink()


def truncate(case, rng, kind):
    content = path_of(case, kind).read_bytes()
    path_of(case, kind).write_bytes(content[: int(len(content) * rng.uniform(0.05, 0.99))])


def flip_bits(case, rng, kind):
    content = bytearray(path_of(case, kind).read_bytes())
    content[len(content) // 2] ^= 0x5A
    path_of(case, kind).write_bytes(bytes(content))


def overwrite(case, rng, kind, content):
    path_of(case, kind).write_bytes(content)


def cut_plain(case, rng, kind):
    content = gzip.decompress(path_of(case, kind).read_bytes())
    path_of(case, kind).write_bytes(content[:-1000])


def unzip(case, rng, kind):
    path_of(case, kind).write_bytes(gzip.decompress(path_of(case, kind).read_bytes()))


def repeat(case, rng, kind):
    path = path_of(case, kind)
    path.with_name(path.name.removesuffix(".gz")).write_bytes(gzip.decompress(path.read_bytes()))


def copy_over(case, rng, kind, other):
    path_of(case, kind).write_bytes(path_of(case, other).read_bytes())


def copy_rescaled(case, rng, kind, other):
    other_array = np.asarray(nib.load(path_of(case, other)).dataobj)
    edit(case, kind, lambda array: (other_array * 0.7).astype(array.dtype))


def swap(case, rng, kind, other):
    first, second = path_of(case, kind).read_bytes(), path_of(case, other).read_bytes()
    path_of(case, kind).write_bytes(second)
    path_of(case, other).write_bytes(first)


# --- grids and headers -----------------------------------------------------------------------


def crop(case, rng, kind):
    edit(case, kind, lambda array: array[2:])


def stack(case, rng, kind):
    edit(case, kind, lambda array: np.stack([array, array], axis=-1))


def shift_affine(case, rng, kind):
    def change(affine):
        affine[rng.integers(3), 3] += rng.choice([-1, 1]) * rng.uniform(0.5, 30)
        return affine

    move(case, kind, change)


def stretch_affine(case, rng, kind):
    move(case, kind, lambda affine: affine @ np.diag([1.02, 1, 1, 1]))


def flip_affine(case, rng, kind):
    move(case, kind, lambda affine: affine @ np.diag([-1, 1, 1, 1]))


def drop_codes(case, rng, kind):
    def to_pixdim(header, image):
        header["qform_code"] = header["sform_code"] = 0

    for each in (*MODALITIES, "seg") if kind == "all" else (kind,):
        rewrite_header(case, each, to_pixdim)


def rewrite_header(case, kind, change):
    """Change header bytes without nibabel's repairs."""
    path = path_of(case, kind)
    raw = gzip.decompress(path.read_bytes())
    header = nib.Nifti1Header(raw[:348], check=False)
    change(header, raw)
    path.write_bytes(gzip.compress(header.binaryblock + raw[348:], 3))


def twist_qform(case, rng, kind):
    def change(header, raw):
        header["qoffset_x"] += 25

    rewrite_header(case, kind, change)


def set_units(case, rng, kind, unit):
    def change(header, raw):
        header["xyzt_units"] = unit

    rewrite_header(case, kind, change)


def scale_everything(case, rng, factor):
    for kind in (*MODALITIES, "seg"):
        move(case, kind, lambda affine: np.diag([factor, factor, factor, 1]) @ affine)


def zero_spacing(case, rng, kind):
    def change(header, raw):
        header["pixdim"][2] = 0

    rewrite_header(case, kind, change)


def turn_storage(case, rng, kind):
    """Store one file in another orientation with the right affine: the same image."""
    path = path_of(case, kind)
    turned = nib.as_closest_canonical(nib.load(path))
    made = nib.Nifti1Image(np.asarray(turned.dataobj).copy(), turned.affine)
    made.set_qform(turned.affine, 1)
    made.set_sform(turned.affine, 1)
    nib.save(made, path)


# --- voxels ----------------------------------------------------------------------------------


def sprinkle(case, rng, kind, value):
    def change(array):
        array = array.astype(np.float32)
        array.reshape(-1)[rng.choice(array.size, 20, replace=False)] = value
        return array

    edit(case, kind, change)


def flatten(case, rng, kind, value):
    edit(case, kind, lambda array: np.where(array, value, 0).astype(np.int16))


def blank(case, rng, kind, axis, where, kinds=None):
    """Set a slab to 0: "inside" the brain or at its first or last slices."""
    brain = brain_of(case)
    slices = np.flatnonzero(brain.any(tuple({0, 1, 2} - {axis})))
    n = max(2, len(slices) // 5)
    start = {"first": 0, "last": len(slices) - n, "inside": len(slices) // 2}[where]
    slab = [slice(None)] * 3
    slab[axis] = slice(slices[start], slices[start] + n)

    def change(array):
        array[tuple(slab)] = 0
        return array

    for each in MODALITIES if kind == "all" else (kind,):
        edit(case, each, change)


def saturate(case, rng, kind):
    def change(array):
        return np.where(array > np.quantile(array[array > 0], 0.95), 32767, array).astype(np.int16)

    edit(case, kind, change)


def clip(case, rng, kind):
    edit(case, kind, lambda a: np.minimum(a, np.quantile(a[a > 0], 0.9)).astype(a.dtype))


def rescale(case, rng, kind, top, dtype):
    edit(case, kind, lambda array: (array / array.max() * top).astype(dtype))  # its largest is top


def shift_values(case, rng, kind, by):
    edit(case, kind, lambda array: (array + by).astype(array.dtype))


def min_max(case, rng, kind):
    edit(case, kind, lambda array: (2 * array / array.max() - 1).astype(np.float32))


def z_score_all(case, rng, kind):
    edit(case, kind, lambda array: ((array - array.mean()) / array.std()).astype(np.float32))


def z_score_brain(case, rng, kind):
    def change(array):
        inside = array[array > 0]
        scored = (array - inside.mean()) / inside.std()
        return np.where(array > 0, scored, 0).astype(np.float32)

    edit(case, kind, change)


def add_noise_everywhere(case, rng, kind):
    edit(case, kind, lambda array: (array + rng.integers(1, 30, array.shape)).astype(array.dtype))


def add_skull(case, rng, kind):
    spacing_mm = nib.load(path_of(case, kind)).header.get_zooms()[0]
    around = ndimage.binary_dilation(brain_of(case), iterations=round(12 / spacing_mm))

    def change(array):
        return np.where((array == 0) & around, rng.integers(50, 90, array.shape), array).astype(
            "i2"
        )

    edit(case, kind, change)


def mirror(case, rng, kind, axis):
    edit(case, kind, lambda array: np.flip(array, axis))


def roll(case, rng, kind, by):
    edit(case, kind, lambda array: np.roll(array, by, (0, 1, 2)))


def roll_mask(case, rng, by_mm):
    spacing_mm = nib.load(case.labels_path).header.get_zooms()
    roll(case, rng, "seg", [round(mm / size) for mm, size in zip(by_mm, spacing_mm, strict=True)])


# --- masks -----------------------------------------------------------------------------------


def relabel(case, rng, old, new):
    edit(case, "seg", lambda array: np.where(array == old, new, array).astype(array.dtype))


def blur_mask(case, rng):
    def change(array):
        return (0.5 * (array + np.roll(array, 1, 0))).astype(np.float32)

    edit(case, "seg", change)


def empty_mask(case, rng):
    edit(case, "seg", np.zeros_like)


def shrink_et(case, rng, keep):
    def change(array):
        et = np.flatnonzero(array == 4)
        array.reshape(-1)[et[keep:]] = 1
        return array

    edit(case, "seg", change)


def add_island(case, rng, size):
    shown = np.any([np.asarray(nib.load(p).dataobj) != 0 for p in case.paths.values()], axis=0)

    def change(array):
        corner = np.array([size + 1] * 3)  # far from the brain, which stands in the middle
        box = tuple(slice(at, at + size) for at in corner)
        assert not shown[box].any()
        array[box] = 2
        return array

    edit(case, "seg", change)


def damages() -> Iterator[Damage]:
    """List more than a hundred ways to damage a case."""
    yield from _in_each_modality()
    yield from _in_files_and_grids()
    yield from _in_values()
    yield from _in_places()
    yield from _in_masks_and_headers()


def _in_each_modality() -> Iterator[Damage]:
    """What can befall any modality."""
    for kind in MODALITIES:
        yield Damage(f"lose-{kind}", partial(lose, kind=kind), "missing", "problem", kind, (kind,))
        yield Damage(
            f"nan-{kind}",
            partial(sprinkle, kind=kind, value=np.nan),
            "not-finite",
            "problem",
            "NaN or infinity in 20 voxels",
            (kind,),
        )
        yield Damage(
            f"repeat-{kind}",
            partial(repeat, kind=kind),
            "repeated",
            "problem",
            f"2 files for {kind}",
            (kind,),
        )
        yield Damage(
            f"constant-{kind}",
            partial(flatten, kind=kind, value=7),
            "constant",
            "problem",
            "only 7",
            (kind,),
        )
        for axis, letter in enumerate("IJK"):
            yield Damage(
                f"slab-{kind}-{letter}",
                partial(blank, kind=kind, axis=axis, where="inside"),
                "slab",
                "warning",
                f"slices from {letter} = ",
                (kind,),
            )
        yield Damage(
            f"mirror-{kind}",
            partial(mirror, kind=kind, axis=0),
            "misplaced",
            "problem",
            "mirrored along I",
            (kind,),
        )
        yield Damage(
            f"saturated-{kind}",
            partial(saturate, kind=kind),
            "saturated",
            "warning",
            "of the brain is at 32767",
            (kind,),
        )
        yield Damage(
            f"clipped-{kind}",
            partial(clip, kind=kind),
            "saturated",
            "warning",
            "of the brain is at",
            (kind,),
        )
        yield Damage(
            f"rescaled-{kind}",
            partial(rescale, kind=kind, top=32767, dtype=np.int16),
            "rescaled",
            "note",
            "rescaled to a maximum of 32767",
            (kind,),
        )
        yield Damage(
            f"shifted-values-{kind}",
            partial(shift_values, kind=kind, by=100),
            "background",
            "warning",
            "background is 100 instead of 0",
            (kind,),
        )
        yield Damage(
            f"min-max-{kind}",
            partial(min_max, kind=kind),
            "background",
            "warning",
            "background is -1 instead of 0",
            (kind,),
        )


def _in_files_and_grids() -> Iterator[Damage]:
    """Broken files and grids that differ."""
    for kind in (*MODALITIES, "seg"):
        yield Damage(
            f"truncated-{kind}",
            partial(truncate, kind=kind),
            "damaged",
            "problem",
            "truncated",
            (kind,),
        )
        yield Damage(
            f"moved-affine-{kind}",
            partial(shift_affine, kind=kind),
            "grid",
            "problem",
            "an affine that puts a corner",
            (kind,),
        )
        yield Damage(
            f"cropped-{kind}", partial(crop, kind=kind), "grid", "problem", "got shape", (kind,)
        )
        yield Damage(
            f"no-codes-{kind}",
            partial(twist_qform, kind=kind),
            "qform",
            "warning",
            "qform and sform disagree by up to 25",
            (kind,),
        )
    for kind, says, content in (
        ("flair", "empty file", b""),
        ("seg", "empty file", b""),
        ("t1", "single-file NIfTI", b"<html>404 Not Found</html>" * 20),
        ("t2", "single-file NIfTI", b"\x00" * 5000),
        ("t1ce", "truncated", b"\x1f\x8b\x08\x00"),
    ):
        apply = partial(overwrite, kind=kind, content=content)
        yield Damage(f"content-{kind}", apply, "damaged", "problem", says, (kind,))
    for kind in ("t1", "seg"):
        yield Damage(
            f"bits-{kind}", partial(flip_bits, kind=kind), "damaged", "problem", "damaged", (kind,)
        )
        yield Damage(
            f"plain-cut-{kind}", partial(cut_plain, kind=kind), "damaged", "problem",
            "it is truncated", (kind,),
        )  # fmt: skip
        yield Damage(
            f"not-gzip-{kind}", partial(unzip, kind=kind), "suffix", "note",
            "named .gz but not compressed", (kind,),
        )  # fmt: skip
        yield Damage(
            f"zero-spacing-{kind}", partial(zero_spacing, kind=kind), "damaged", "problem",
            "spacing above 0 mm", (kind,),
        )  # fmt: skip
        yield Damage(
            f"stretched-{kind}", partial(stretch_affine, kind=kind), "grid", "problem",
            "an affine that puts a corner", (kind,),
        )  # fmt: skip
        yield Damage(
            f"flipped-affine-{kind}", partial(flip_affine, kind=kind), "grid", "problem",
            "an affine that puts a corner", (kind,),
        )  # fmt: skip
        yield Damage(
            f"turned-{kind}", partial(turn_storage, kind=kind), "orientation", "note",
            f"{kind} RAS", ("",),
        )  # fmt: skip


def _in_values() -> Iterator[Damage]:
    """Copies, swaps and odd values."""
    for kind, other in (("t1ce", "t1"), ("flair", "t2"), ("t1", "flair")):
        where = tuple(sorted((kind, other), key=MODALITIES.index))
        copy, rescaled = partial(copy_over, other=other), partial(copy_rescaled, other=other)
        yield Damage(
            f"copy-{kind}-{other}", partial(copy, kind=kind), "same-image", "problem",
            "hold the same voxels", where,
        )  # fmt: skip
        yield Damage(
            f"rescaled-copy-{kind}-{other}", partial(rescaled, kind=kind), "same-image", "problem",
            "hold the same image, rescaled", where,
        )  # fmt: skip
    yield Damage(
        "swap-t1-t1ce", partial(swap, kind="t1", other="t1ce"), "swapped", "warning",
        "t1 and t1ce look swapped", ("t1", "t1ce"),
    )  # fmt: skip
    yield Damage(
        "swap-flair-t2", partial(swap, kind="flair", other="t2"), "swapped", "warning",
        "flair and t2 look swapped", ("flair", "t2"),
    )  # fmt: skip
    yield Damage("4d-t2", partial(stack, kind="t2"), "damaged", "problem", "3D volume", ("t2",))
    yield Damage(
        "inf-t1", partial(sprinkle, kind="t1", value=np.inf), "not-finite", "problem",
        "NaN or infinity in 20", ("t1",),
    )  # fmt: skip
    yield Damage(
        "nan-seg", partial(sprinkle, kind="seg", value=np.nan), "labels", "problem",
        "must be integers; got nan", ("seg",),
    )  # fmt: skip
    yield Damage(
        "empty-t2", partial(flatten, kind="t2", value=0), "constant", "problem", "only 0", ("t2",)
    )
    for kind, axis, place in (
        ("flair", 0, "first"), ("t1", 1, "last"), ("t1ce", 2, "first"), ("t2", 2, "last"),
        ("flair", 2, "last"), ("t2", 1, "first"),
    ):  # fmt: skip
        yield Damage(
            f"slab-{kind}-{'IJK'[axis]}-{place}",
            partial(blank, kind=kind, axis=axis, where=place),
            "slab", "warning", f"slices from {'IJK'[axis]} = ", (kind,),
        )  # fmt: skip


def _in_places() -> Iterator[Damage]:
    """Gaps, mirrors and shifts."""
    for axis, letter in enumerate("IJK"):
        yield Damage(
            f"gap-in-all-{letter}", partial(blank, kind="all", axis=axis, where="inside"),
            "slab", "warning", "no modality shows the brain in", ("",),
        )  # fmt: skip
        yield Damage(
            f"mirrored-mask-{letter}", partial(mirror, kind="seg", axis=axis),
            "mask-place", "problem", f"the mask is mirrored along {letter}", ("seg",),
        )  # fmt: skip
    for by in ((24, 0, 0), (-28, 12, 0), (0, 20, -16), (0, 0, 24)):
        yield Damage(
            f"shifted-mask-{by}-mm", partial(roll_mask, by_mm=by),
            "mask-place", "problem", "the mask is shifted by about", ("seg",),
        )  # fmt: skip
    for kind, by in (("flair", (3, 0, 0)), ("t1", (0, -2, 2)), ("t2", (0, 0, 3))):
        yield Damage(
            f"shifted-{kind}", partial(roll, kind=kind, by=by),
            "misplaced", "problem", "shifted by (", (kind,),
        )  # fmt: skip
    for kind, axis in (("t1", 1), ("t1ce", 2)):
        yield Damage(
            f"mirror-{kind}-{'IJK'[axis]}", partial(mirror, kind=kind, axis=axis),
            "misplaced", "problem", f"mirrored along {'IJK'[axis]}", (kind,),
        )  # fmt: skip
    yield Damage(
        "scaled-to-1", partial(rescale, kind="t1", top=1, dtype=np.float32), "rescaled", "note",
        "rescaled to a maximum of 1", ("t1",),
    )  # fmt: skip
    yield Damage(
        "z-scored-everywhere", partial(z_score_all, kind="t2"), "background", "warning",
        "instead of 0", ("t2",),
    )  # fmt: skip
    yield Damage(
        "z-scored", partial(z_score_brain, kind="flair"), "negative", "note",
        "negative intensities", ("flair",),
    )  # fmt: skip
    yield Damage(
        "skull-t1", partial(add_skull, kind="t1"), "not-stripped", "warning", "more than the brain",
        ("t1",),
    )  # fmt: skip


def _in_masks_and_headers() -> Iterator[Damage]:
    """Masks, and headers that lie."""
    for old, new in ((4, 3), (1, 7), (2, 255)):
        yield Damage(
            f"label-{new}", partial(relabel, old=old, new=new), "labels", "problem",
            f"got [{new}]", ("seg",),
        )  # fmt: skip
    yield Damage("blurred", blur_mask, "labels", "problem", "must be integers", ("seg",))
    yield Damage("no-tumour", empty_mask, "empty-mask", "warning", "empty", ("seg",))
    yield Damage("no-et", partial(relabel, old=4, new=1), "no-et", "note", "no enhancing", ("seg",))
    yield Damage("few-et", partial(shrink_et, keep=5), "tiny-et", "note", "5 voxels", ("seg",))
    for size in (1, 2, 3):
        yield Damage(
            f"island-{size}", partial(add_island, size=size), "islands", "warning",
            f"1 label island outside the brain, {size**3} voxel", ("seg",),
        )  # fmt: skip
    for kind in ("t1", "all"):
        where = (*MODALITIES, "seg") if kind == "all" else (kind,)
        yield Damage(
            f"unknown-orientation-{kind}", partial(drop_codes, kind=kind),
            "orientation" if kind == "all" else "grid",
            "warning" if kind == "all" else "problem",
            "orientation unknown" if kind == "all" else "an affine that puts a corner", where,
        )  # fmt: skip
    for unit, name in ((1, "metre"), (3, "micrometre")):
        yield Damage(
            f"unit-{name}", partial(set_units, kind="flair", unit=unit), "units", "warning",
            f"declared in {name}", ("flair",),
        )  # fmt: skip
    for factor in (1e-3, 1e3):
        yield Damage(
            f"spacing-{factor}", partial(scale_everything, factor=factor), "spacing", "problem",
            "implausible spacing", ("",),
        )  # fmt: skip


def with_paths_in(case: Case, folder: Path) -> Case:
    """Return the case as if its files lay in another folder."""
    paths = {kind: folder / Path(path).name for kind, path in case.paths.items()}
    labels = folder / Path(case.labels_path).name
    return replace(case, paths=paths, labels_path=labels)
