"""What is labelled slab by slab is what is labelled at once, within the memory that was allowed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bratskit.cases import load_scan
from bratskit.networks import UNet
from bratskit.predict import (
    evaluating,
    forward_volume,
    label_prepared,
    predict_prepared,
    predict_scan,
    single_pass,
    sliding_window,
    window_slabs,
)
from bratskit.predict.memory import bytes_of_pass, bytes_of_slabs
from bratskit.preprocess import decide, prepare_scan
from bratskit.settings import GeometrySettings, InferenceSettings, Recipe, TrainingSettings

CHILD = Path(__file__).with_name("labels_in_memory.py")
WINDOW = (16, 16, 16)


@pytest.fixture
def unet():
    return UNet(4, 4, channels=(4, 8), norm="instance").eval()


@pytest.fixture
def recipe():
    return Recipe(
        name="test",
        geometry=GeometrySettings(spacing_mm=(1.5, 1.5, 1.5)),
        training=TrainingSettings(patch_vox=WINDOW, precision="fp32"),
        inference=InferenceSettings(mode="window", window_vox=WINDOW),
    )


@pytest.fixture
def prepared(write_case, tmp_path, recipe):
    scan = load_scan(write_case(tmp_path, shape=(40, 36, 30)))
    return prepare_scan(scan, recipe)


@pytest.mark.parametrize("size", [(40, 18, 20), (16, 16, 16), (5, 30, 17), (33, 16, 9)])
@pytest.mark.parametrize("weights", ["gaussian", "flat"])
def test_slabs_put_together_are_the_volume_to_the_bit(unet, size, weights):
    image = torch.randn(4, *size)
    options = {"window_vox": WINDOW, "overlap": 0.6, "weights": weights}
    with torch.inference_mode():
        whole = sliding_window(unet, image, **options)
        slabs = [(at, slab.clone()) for at, slab in window_slabs(unet, image.numpy(), **options)]
    assert torch.equal(torch.cat([slab for _, slab in slabs], dim=1), whole)
    lengths = [slab.shape[1] for _, slab in slabs]
    assert [at for at, _ in slabs] == np.cumsum([0, *lengths[:-1]]).tolist()
    assert max(lengths) <= WINDOW[0]


def reference(network, image, window, overlap_vox):
    """Average windows in the plainest way: sums of probabilities and of weights, float64."""
    from bratskit.predict import gaussian_weights

    weight = gaussian_weights(window).double()
    size = image.shape[1:]
    total, seen = torch.zeros(4, *size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for i in range(0, size[0] - window[0] + 1, overlap_vox):
        for j in range(0, size[1] - window[1] + 1, overlap_vox):
            place = slice(i, i + window[0]), slice(j, j + window[1]), slice(0, window[2])
            probs = network(image[(None, slice(None), *place)])[0].softmax(dim=0)
            total[(slice(None), *place)] += probs * weight
            seen[place] += weight
    return total / seen


def test_shares_along_axes_are_the_weights_of_the_plain_way(unet):
    image = torch.randn(4, 32, 24, 16)
    with torch.inference_mode():
        tiled = sliding_window(unet, image, window_vox=WINDOW, overlap=0.5)
        expected = reference(unet, image, WINDOW, 8)
    torch.testing.assert_close(tiled, expected.float(), rtol=1e-5, atol=1e-6)


def test_one_window_over_everything_is_a_single_pass_to_the_bit(unet):
    image = torch.randn(4, 13, 16, 20)
    with torch.inference_mode():
        tiled = sliding_window(unet, image, window_vox=(32, 32, 32))
        assert torch.equal(tiled, single_pass(unet, image))


def test_a_volume_shifted_by_the_stride_of_the_windows_is_labelled_shifted(unet):
    image = torch.zeros(4, 56, 16, 16)
    image[:, 16:24] = torch.randn(4, 8, 16, 16)
    moved = torch.roll(image, 8, dims=1)  # windows of 16, half of it covered again
    with torch.inference_mode():
        before, after = (sliding_window(unet, x, window_vox=WINDOW) for x in (image, moved))
    torch.testing.assert_close(after[:, 16:48], before[:, 8:40])


@pytest.mark.parametrize("mode", ["single", "window"])
def test_labels_from_slabs_are_those_of_the_probabilities_in_memory(prepared, unet, recipe, mode):
    recipe = replace(recipe, inference=replace(recipe.inference, mode=mode))
    probs = predict_prepared(unet, prepared, recipe)
    expected = prepared.geometry.invert_to_labels(probs)
    labels = label_prepared(unet, prepared, recipe)
    assert len(np.unique(expected)) > 2  # or the test would say nothing
    assert np.array_equal(labels, expected)


def test_a_scan_is_labelled_the_same_with_and_without_its_probabilities(
    write_case, tmp_path, recipe, unet
):
    scan = load_scan(write_case(tmp_path, shape=(40, 36, 30)))
    kept = predict_scan(unet, scan, recipe, keep_probs=True)
    assert np.array_equal(decide(kept.probs, targets="labels"), kept.labels)
    assert np.array_equal(predict_scan(unet, scan, recipe).labels, kept.labels)


def test_the_memory_that_is_given_chooses_the_form(prepared, unet, recipe, monkeypatch):
    recipe = replace(recipe, inference=replace(recipe.inference, mode="single"))
    image = torch.from_numpy(prepared.image)
    with evaluating(unet):
        enough = bytes_of_pass(unet, image.shape, recipe)
        whole = single_pass(unet, image)
        tiled = sliding_window(unet, image, window_vox=WINDOW)
        single = forward_volume(unet, image, recipe, memory_bytes=enough)
        short = forward_volume(unet, image, recipe, memory_bytes=enough - 1)
    assert torch.equal(single, whole)
    assert torch.equal(short, tiled)
    assert not torch.equal(whole, tiled)


def test_too_little_memory_for_one_window_is_refused_with_what_it_takes(prepared, unet, recipe):
    with evaluating(unet):
        least = bytes_of_slabs(unet, prepared.image.shape, recipe, prepared.geometry)
    with pytest.raises(ValueError, match=rf"at least {least:,} for windows of \(16, 16, 16\)"):
        label_prepared(unet, prepared, recipe, device="cpu", memory_bytes=least - 1)
    label_prepared(unet, prepared, recipe, device="cpu", memory_bytes=least)


def test_the_memory_of_slabs_does_not_grow_with_the_length_of_the_scan(unet, recipe):
    short, long = (bytes_of_slabs(unet, (4, length, 64, 64), recipe) for length in (64, 640))
    assert short == long


def measure(shape, native, window, *, memory_bytes=0, precision="auto"):
    words = [",".join(map(str, shape)), ",".join(map(str, native))]
    command = [sys.executable, str(CHILD), *words, str(window), str(memory_bytes), precision]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@needs_linux
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_peak_memory_stays_under_the_stated_bound(precision):
    found = measure((120, 72, 72), (180, 112, 112), 32, precision=precision)
    assert found["took"] <= found["least"] < found["whole"]


@needs_linux
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("shape", "native"),
    [((150, 180, 150), (240, 240, 155)), ((512, 512, 300), (512, 512, 300))],
)
def test_peak_memory_stays_under_the_stated_bound_at_the_size_of(shape, native):
    found = measure(shape, native, 64)
    held_at_once = 4 * 4 * np.prod(native)  # native probabilities in float32
    assert found["took"] <= found["least"] < min(found["whole"], held_at_once)
