"""Labels decided slab by slab on the native grid are those decided at once."""

import numpy as np
import pytest

from bratskit.preprocess import Crop, Geometry, Orient, Resize, labels_from_slabs
from bratskit.preprocess.decide import decide
from bratskit.preprocess.resample import resample_planes, resample_values, source_planes

AFFINE = tuple(map(tuple, np.diag([1.0, 1.1, 3.0, 1.0]).tolist()))
CHAINS = {
    "nothing to do": (),
    "brain box": (Crop(((3, 17), (2, 15), (0, 8))),),
    "finer": (Crop(((3, 17), (2, 15), (0, 8))), Resize((23, 17, 11))),
    "coarser": (Crop(((3, 17), (2, 15), (0, 8))), Resize((7, 5, 6))),
    "one axis only": (Resize((20, 16, 5)),),
    "middle cut": (Resize((16, 12, 8)), Crop(((4, 10), (2, 9), (0, 8)))),
    "middle padded": (Crop(((3, 17), (2, 15), (0, 8))), Crop(((-5, 21), (-2, 14), (-1, 9)))),
    "resized, cut and padded": (
        Crop(((1, 19), (0, 16), (1, 9))), Resize((12, 20, 9)), Crop(((5, 9), (-3, 22), (2, 12))),
    ),
}  # fmt: skip


def make(name):
    return Geometry(native_shape=(20, 16, 10), native_affine=AFFINE, steps=CHAINS[name])


def cut_in(probs, ends):
    """Hand out slabs of one buffer that is overwritten for the next one, as a stream does."""
    buffer, starts = np.empty_like(probs), [0, *ends]
    for start, stop in zip(starts, [*ends, probs.shape[1]], strict=True):
        buffer[:, : stop - start] = probs[:, start:stop]
        yield start, buffer[:, : stop - start]
        buffer.fill(np.nan)


@pytest.mark.parametrize("targets", ["labels", "regions"])
@pytest.mark.parametrize("name", CHAINS)
def test_slabs_of_any_length_give_the_labels_that_the_whole_gives(rng, name, targets):
    geometry = make(name)
    n_channels = 4 if targets == "labels" else 3
    probs = rng.random((n_channels, *geometry.shape), dtype=np.float32)
    expected = geometry.invert_to_labels(probs, targets=targets)
    assert np.array_equal(
        expected, decide(geometry.invert(probs, targets=targets), targets=targets)
    )
    planes = geometry.shape[0]
    for ends in ([], [1], [planes // 2], list(range(1, planes))):
        found = labels_from_slabs(geometry, cut_in(probs, ends), targets=targets)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize(("length", "wanted"), [(5, 9), (9, 5), (7, 7), (1, 4), (6, 1)])
def test_planes_made_from_a_part_are_those_of_the_whole(rng, length, wanted):
    array = rng.random((length, 4, 6), dtype=np.float32)
    whole = resample_values(array, (wanted, 5, 3))
    low, high = source_planes(length, wanted)
    for a in range(wanted):
        for b in range(a + 1, wanted + 1):
            first, last = low[a], high[b - 1]
            made = resample_planes(
                array[first:last], (wanted, 5, 3), first=first, length=length, rows=(a, b)
            )
            np.testing.assert_allclose(made, whole[a:b], rtol=0, atol=2e-7)  # torch picks paths


def test_a_missing_slab_is_refused():
    geometry, slab = make("nothing to do"), np.zeros((4, 5, 16, 10), np.float32)
    with pytest.raises(ValueError, match="got 10 after 5"):
        labels_from_slabs(geometry, [(0, slab), (10, slab)], targets="labels")
    with pytest.raises(ValueError, match="got 20 after 5"):
        labels_from_slabs(geometry, [(0, slab)], targets="labels")


def test_a_grid_that_is_turned_is_refused_with_what_works():
    turned = Geometry(
        native_shape=(4, 4, 4), native_affine=AFFINE, steps=(Orient((1, 0, 2), (False,) * 3),)
    )
    with pytest.raises(ValueError, match=r"Use geometry\.invert_to_labels"):
        labels_from_slabs(turned, [], targets="labels")
