"""An exported network says what the network says, wherever it runs."""

import numpy as np
import pytest
import torch

from bratskit.cases import load_scan
from bratskit.cli import main
from bratskit.networks import Checkpoint, build_network, save_checkpoint
from bratskit.predict import export, export_onnx, load_exported, predict_scan
from bratskit.settings import (
    GeometrySettings,
    InferenceSettings,
    NetworkSettings,
    Recipe,
    TrainingSettings,
)

SIZE = (16, 16, 16)


@pytest.fixture(params=["batch", "instance"])
def model(request, tmp_path):
    recipe = Recipe(
        name="nano",
        geometry=GeometrySettings(spacing_mm=None),
        network=NetworkSettings(channels=(4, 8), norm=request.param),
        training=TrainingSettings(patch_vox=SIZE, precision="fp32"),
        inference=InferenceSettings(mode="window", window_vox=SIZE),
    )
    network = build_network(recipe.network, in_channels=4, out_channels=4)
    return Checkpoint(
        network=network, recipe=recipe, card={}, training=None, path=tmp_path, checksum="nano"
    )


@pytest.fixture
def exported(model, tmp_path):
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'bratskit[onnx]'")
    return export_onnx(model, tmp_path / "nano.onnx")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_exported_network_gives_the_same_logits_and_the_same_mask(
    model, exported, runtime, write_case, tmp_path
):
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    network = load_exported(exported, runtime=runtime, exact=True)
    assert network.recipe == model.recipe
    image = torch.randn(2, 4, *SIZE)
    with torch.inference_mode():
        torch.testing.assert_close(network(image), model.network(image), rtol=1e-4, atol=1e-4)
    scan = load_scan(write_case(tmp_path))
    expected = predict_scan(model.network, scan, model.recipe, device="cpu", keep_probs=True)
    found = predict_scan(network, scan, network.recipe, device="cpu", keep_probs=True)
    np.testing.assert_allclose(found.probs, expected.probs, atol=1e-4)
    assert (found.labels == expected.labels).mean() > 0.999


def test_the_command_writes_the_file_at_the_size_asked_for(model, exported, tmp_path):
    path = save_checkpoint(
        tmp_path / "best.pt", network=model.network, recipe=model.recipe, card={}
    )
    out = tmp_path / "new" / "net.onnx"
    assert main(["export", str(path), str(out), "--size", "16", "32", "16"]) == 0
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    assert load_exported(out, runtime="onnxruntime").size_vox == (16, 32, 16)


def test_a_file_that_says_something_else_is_not_left_behind(model, exported, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

    def wrong(path, *, exact):
        run, texts = export._by_onnxruntime(path, exact=exact)
        return lambda image: run(image) + 0.01, texts

    monkeypatch.setattr(export, "_RUNTIMES", {"onnxruntime": wrong})
    with pytest.raises(RuntimeError, match=r"got 0\.01 apart\. Nothing was written"):
        export_onnx(model, tmp_path / "wrong.onnx")
    assert not (tmp_path / "wrong.onnx").exists()


def test_another_suffix_is_refused_with_what_works(model, tmp_path):
    with pytest.raises(ValueError, match=r"Try .*net\.onnx"):
        export_onnx(model, tmp_path / "net.pt")


def test_missing_packages_are_named_with_the_command_that_brings_them(model, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"onnx and onnxscript must be .*pip install"):
        export_onnx(model, tmp_path / "net.onnx")


def test_a_missing_file_is_refused_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="bratskit export"):
        load_exported(tmp_path / "net.onnx")
