"""Every operation of a simulation is rounded once and alike everywhere; its bits are pinned."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from bratskit.cases.phantoms import GENERATOR, Ingredients, make_phantom  # noqa: E402
from bratskit.cases.phantoms.exact import _at_place, white_noise  # noqa: E402
from bratskit.cases.phantoms.simulate import simulate  # noqa: E402

COARSE = (8.0, 8.0, 8.0)

# Operations of aten by name, in place or not. Numbers only move:
MOVES = {
    "_local_scalar_dense", "_to_copy", "arange", "cat", "clone", "copy", "detach", "empty",
    "empty_like", "expand", "fill", "full", "index", "index_copy", "index_put", "index_select",
    "lift_fresh", "nonzero", "permute", "roll", "scalar_tensor", "select", "slice", "sort",
    "squeeze", "stack", "t", "unbind", "unsqueeze", "view", "zeros", "zeros_like", "where",
}  # fmt: skip
# One rounding, as IEEE 754 has it, or none:
ROUNDED = {
    "abs", "add", "amax", "any", "bitwise_not", "bitwise_or", "clamp", "div", "eq", "floor", "ge",
    "gt", "index_add", "le", "lt", "max", "maximum", "min", "minimum", "mul", "ne", "neg", "round",
    "rsub", "sub",
}  # fmt: skip
WHOLE = {
    "__rshift__", "bitwise_and", "bitwise_xor", "searchsorted", "sum",
}  # fmt: skip  # of whole numbers only


class Watch(TorchDispatchMode):
    """Note every operation whose bits may differ from one machine to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.inexact: set[str] = set()

    def __torch_dispatch__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        if not is_exact(func, args, kwargs or {}):
            self.inexact.add(str(func))
        return func(*args, **(kwargs or {}))


def is_exact(func: Callable, args: tuple, kwargs: dict) -> bool:
    name = func._schema.name.removeprefix("aten::")
    name = name if name.startswith("__") else name.rstrip("_")
    tensors = [one for one in tree_leaves(args) if isinstance(one, torch.Tensor)]
    if not any(one.is_floating_point() for one in tensors):
        return name in MOVES | ROUNDED | WHOLE
    if name == "sqrt":  # on a GPU, with twice the digits
        return all(one.dtype == torch.float64 for one in tensors)
    if name == "div" and not isinstance(args[1], torch.Tensor):
        return False  # CUDA multiplies by the inverse of a Python number
    if kwargs.get("alpha", 1) != 1 or (name == "rsub" and len(args) > 2):
        return False  # multiplied and added in one step
    return name in MOVES | ROUNDED


EVERYTHING = Ingredients(slabs=2, cavity=2, strip=2, multifocal=2, non_enhancing=2, ghosts=2)


@pytest.mark.parametrize(("seed", "use"), [(0, Ingredients()), (1, EVERYTHING)])
def test_a_simulation_takes_no_step_whose_bits_differ_between_machines(seed: int, use: Ingredients):
    with Watch() as watch:
        simulate(seed, spacing_mm=COARSE, ingredients=use)
    assert watch.inexact == set(), "take sqrt, exp, total, white_noise from phantoms.exact"


INEXACT = {
    "mean": lambda x: x.mean(),
    "sum": lambda x: x.sum(),
    "torch.sum": torch.sum,
    "std": lambda x: x.std(),
    "var": lambda x: x.var(),
    "pow": lambda x: x.pow(2),
    "**": lambda x: x**2,
    "square": lambda x: x.square(),
    "norm": lambda x: x.norm(),
    "cumsum": lambda x: x.cumsum(0),
    "sqrt": lambda x: x.sqrt(),
    "rsqrt": lambda x: x.rsqrt(),
    "exp": lambda x: x.exp(),
    "sin": lambda x: x.sin(),
    "hypot": lambda x: x.hypot(x),
    "@": lambda x: x @ x,
    "by a number": lambda x: x / 3,
    "alpha": lambda x: x.add(x, alpha=2),
    "lerp": lambda x: x.lerp(x, 0.5),
    "addcmul": lambda x: x.addcmul(x, x),
    "kthvalue": lambda x: x.kthvalue(2),
    "rand": lambda x: torch.rand_like(x),
}


@pytest.mark.parametrize("step", INEXACT.values(), ids=INEXACT)
def test_the_watch_sees_what_is_not_exact_however_it_is_written(step: Callable):
    x = torch.tensor([1.0, 2.0, 3.0])
    with Watch() as watch:
        step(x)
    assert watch.inexact


def test_the_watch_lets_pass_what_is_exact():
    x = torch.tensor([1.0, 2.0, 3.0])
    with Watch() as watch:
        x / x - x * 2 + 1
        (x > 1).sum()
        x.double().sqrt().float()
    assert watch.inexact == set()


def test_a_place_of_sorted_values_is_found_as_on_a_gpu_that_must_be_deterministic():
    x = white_noise(1, 5001, device="cpu")
    with Watch() as watch:  # `kthvalue` of CUDA raises under torch.use_deterministic_algorithms
        found = [_at_place(x, place) for place in (0, 70, 5000)]
    assert found == [float(np.partition(x.numpy(), place)[place]) for place in (0, 70, 5000)]
    assert watch.inexact == set()


PINNED = {  # generator: SHA-256 of image, labels and level sets of seed 0 at 8 mm
    2: "d1b0ecc60f9614eec956d1d75eae71c85ea8ee4aa103df527eada14021fdf8b5",
    3: "d79296b29976b7377cd7ab245ad815f9ad3a1311a56cc2f4bbdc2476d43a7505",
}


def test_a_generator_makes_the_voxels_it_made_when_it_was_numbered():
    phantom = make_phantom(0, spacing_mm=COARSE)
    levels = [phantom.level_sets[name] for name in sorted(phantom.level_sets)]
    parts = [phantom.scan.image, phantom.scan.labels, *levels]
    found = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in parts)).hexdigest()
    assert found == PINNED.get(GENERATOR), (
        "a seed gives other voxels than before: raise GENERATOR in cases/phantoms/frame.py and pin "
        f"{found} here for it"
    )
