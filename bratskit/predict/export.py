"""Write a network as ONNX for machines without torch, and run such a file as a network here."""

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from bratskit.networks import Checkpoint
from bratskit.runtime import made_by, write_atomically
from bratskit.settings import Recipe

__all__ = ["MOST_APART", "Exported", "export_onnx", "load_exported"]

Runtime = Literal["openvino", "onnxruntime"]
MOST_APART = 1e-3  # logits in float32 by another library; they are of order 10
OPSET = 18


def export_onnx(
    model: Checkpoint, path: Path | str, *, size_vox: Sequence[int] | None = None
) -> Path:
    """Write a network for images of one size, with its recipe, and prove that it says the same.

    Args:
        model: From `load_checkpoint`.
        path: `.onnx` file to write.
        size_vox: Size of the images; None takes the window of the recipe.

    Returns:
        The path. The file's metadata hold recipe, modalities, targets and size as JSON.

    Raises:
        ValueError: The path does not end in `.onnx`, or the size does not fit the network.
        RuntimeError: onnx or onnxscript is missing, or, where onnxruntime or OpenVINO is there to
            ask, the file says something else than the network.
    """
    path, recipe = Path(path), model.recipe
    if path.suffix != ".onnx":
        msg = f"path must end in .onnx; got {path}. Try {path.with_suffix('.onnx')}."
        raise ValueError(msg)
    _need("onnx", "onnxscript", reason="to write ONNX")
    size = tuple(size_vox or recipe.inference.window_vox)
    image = torch.randn(
        1, len(recipe.modalities), *size, generator=torch.Generator().manual_seed(0)
    )
    facts = {
        "recipe": recipe.to_dict(),
        "modalities": list(recipe.modalities),
        "targets": list(recipe.target_names),
        "size_vox": list(size),
        "checksum": model.checksum,
        "made_by": made_by(),
    }
    network = model.network.eval().to(memory_format=torch.contiguous_format)
    with torch.inference_mode():
        expected = network(image)
    program = _traced(network, image)
    program.model.metadata_props["bratskit"] = json.dumps(facts)

    def write(temporary: Path) -> None:
        program.save(temporary, external_data=False)
        _refuse_difference(temporary, image, expected)

    write_atomically(path, write)
    return path


def load_exported(
    path: Path | str, *, runtime: Runtime | None = None, exact: bool = False
) -> "Exported":
    """Read an exported network; it predicts wherever one of torch does, on the CPU.

    Args:
        path: From `export_onnx`.
        runtime: What runs it; None takes OpenVINO where it is installed, which is faster.
        exact: Whether OpenVINO calculates in float32; otherwise in bfloat16 where the CPU does.

    Raises:
        FileNotFoundError: There is no such file.
        RuntimeError: The runtime, or both, are missing.
        ValueError: The file is not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"exported network must be an existing file; got {path}. Make it: `bratskit export`."
        raise FileNotFoundError(msg)
    if runtime is None:
        runtime = next((name for name in _RUNTIMES if find_spec(name)), "onnxruntime")
    _need(runtime, reason="to run ONNX")
    run, texts = _RUNTIMES[runtime](path, exact=exact)
    if "bratskit" not in texts:
        msg = f"{path} must be written by `bratskit export`; got an ONNX file of another program."
        raise ValueError(msg)
    return Exported(run, json.loads(texts["bratskit"]))


def _traced(network: nn.Module, image: Tensor) -> "torch.onnx.ONNXProgram":
    """Trace a network without the exporter's chatter about packages that it does not need."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                network,
                (image,),
                input_names=["image"],
                output_names=["logits"],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    finally:
        log.setLevel(level)


class Exported(nn.Module):
    """Call an exported network as if it were one of torch; it learns nothing and moves nowhere.

    Attributes:
        recipe: How the network was trained, and how it wants to be asked.
        size_vox: The one size of image that it takes.
    """

    def __init__(
        self, run: Callable[[NDArray[np.float32]], NDArray[np.float32]], facts: dict[str, object]
    ) -> None:
        super().__init__()
        self.recipe = Recipe.from_dict(facts["recipe"])
        self.size_vox = tuple(facts["size_vox"])
        self.in_channels = len(facts["modalities"])
        self._run = run

    def forward(self, image: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b l i j k"]:
        """Return logits in float32; on a GPU the image comes to the CPU and they go back."""
        values = image.float().cpu().contiguous().numpy()
        logits = [self._run(each[None]) for each in values]
        return torch.from_numpy(np.concatenate(logits)).to(image.device)


def _by_openvino(path: Path, *, exact: bool) -> tuple[Callable, dict[str, str]]:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    if exact:
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda image: np.array(compiled(image)[0], np.float32), _texts_of(path)


def _by_onnxruntime(path: Path, *, exact: bool) -> tuple[Callable, dict[str, str]]:
    import onnxruntime

    del exact  # it knows float32 only
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    texts = session.get_modelmeta().custom_metadata_map
    return lambda image: session.run(None, {"image": image})[0], texts


_RUNTIMES = {"openvino": _by_openvino, "onnxruntime": _by_onnxruntime}


def _texts_of(path: Path) -> dict[str, str]:
    """Read the metadata that OpenVINO does not hand out."""
    _need("onnx", reason="to read what the file says of itself")
    import onnx

    found = onnx.load(path, load_external_data=False).metadata_props
    return {one.key: one.value for one in found}


def _refuse_difference(path: Path, image: Tensor, expected: Tensor) -> None:
    for name, load in _RUNTIMES.items():
        if find_spec(name):
            apart = float(np.abs(load(path, exact=True)[0](image.numpy()) - expected.numpy()).max())
            if not apart <= MOST_APART:
                msg = (
                    f"logits by {name} must be within {MOST_APART} of torch's; got {apart:.2g} "
                    "apart. Nothing was written. Tell us the versions of torch and onnx."
                )
                raise RuntimeError(msg)


def _need(*modules: str, reason: str) -> None:
    missing = [name for name in modules if not find_spec(name)]
    if missing:
        msg = f"{' and '.join(missing)} must be installed {reason}: pip install 'bratskit[onnx]'."
        raise RuntimeError(msg)
