"""Say what a network costs before any of it is spent: weights, multiply-adds, features, memory.

Networks are run on tensors that have sizes but no data (torch's "meta" device), which takes
milliseconds and next to no memory at any size.
"""

import contextlib
import copy
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Description", "Ledger", "Level", "bytes_at_peak", "describe_network", "without_data"]

Triple = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Level:
    """What happens on one grid of a network.

    Attributes:
        size_vox: Voxels of the grid.
        channels: Features of the widest convolution on it.
        multiply_adds: Multiplications of the convolutions that answer on it.
    """

    size_vox: Triple
    channels: int
    multiply_adds: int


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a network is made of; `str` gives a table.

    Attributes:
        name: Class of the network.
        size_vox: Image that it was asked about, batch of one.
        parameters: Weights that are learned.
        multiply_adds: Multiplications, each with its addition, of one forward pass: convolutions,
            linear layers and attention. Norms and activations are not counted.
        bytes_at_peak: Bytes of features that live at once in a forward pass without gradients.
        levels: One row a grid, the finest first. Linear layers and attention have no grid, so that
            the rows of a transformer do not add up to `multiply_adds`.
    """

    name: str
    size_vox: Triple
    parameters: int
    multiply_adds: int
    bytes_at_peak: int
    levels: tuple[Level, ...]

    def __str__(self) -> str:
        head = (
            f"{self.name} on {_times(self.size_vox)}: {self.parameters / 1e6:.2f} million weights, "
            f"{self.multiply_adds / 1e9:.1f} G multiply-adds, "
            f"{self.bytes_at_peak / 2**20:.0f} MiB of features at once"
        )
        rows = [f"{'grid':>14} {'features':>9} {'G multiply-adds':>16}"]
        rows += [
            f"{_times(level.size_vox):>14} {level.channels:>9} {level.multiply_adds / 1e9:>16.2f}"
            for level in self.levels
        ]
        return "\n".join([head, *rows])


def describe_network(network: nn.Module, size_vox: Sequence[int]) -> Description:
    """Count what one forward pass over one image costs.

    Args:
        network: Built by `build_network`; it is left as it is.
        size_vox: Voxels of the image, multiples of the network's `multiple_vox`.

    Returns:
        Weights, multiply-adds and one row a grid.

    Raises:
        ValueError: The size does not fit the network.

    Examples:
        >>> from bratskit.networks import UNet
        >>> described = describe_network(UNet(4, 4, channels=(4, 8, 16)), (32, 32, 32))
        >>> [(level.size_vox[0], level.channels) for level in described.levels]
        [(32, 4), (16, 8), (8, 16)]
    """
    shape = (1, network.in_channels, *size_vox)
    bare = without_data(network)
    rows = _watch(bare)
    with FlopCounterMode(display=False) as counter:
        _run(bare, shape)
    levels = tuple(
        Level(
            size_vox=size,
            channels=max(channels for channels, _ in rows[size]),
            multiply_adds=sum(count for _, count in rows[size]),
        )
        for size in sorted(rows, reverse=True)
    )
    inner = getattr(network, "network", network)
    return Description(
        name=type(inner).__name__,
        size_vox=tuple(size_vox),
        parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
        multiply_adds=counter.get_total_flops() // 2,
        bytes_at_peak=bytes_at_peak(network, shape),
        levels=levels,
    )


def bytes_at_peak(network: nn.Module, shape: Sequence[int]) -> int:
    """Count the bytes of features that live at once in a forward pass without gradients.

    Weights and the image are not among them, nor what libraries take to work in.

    Args:
        network: Any module that does not look at the values of its input; left as it is.
        shape: Of the image, `(B, C, I, J, K)`, taken as float32.

    Returns:
        Bytes.
    """
    bare, ledger = without_data(network), Ledger()
    with ledger:
        _run(bare, shape)
    return ledger.peak_bytes


class Ledger(TorchDispatchMode):
    """Sum the bytes of all tensors that are alive, and remember the most there ever were.

    Every operation's results pass through here; a storage is counted once however many views it
    has, and leaves the sum when nothing holds it any longer, autograd's saved tensors included.

    Attributes:
        now_bytes: What is alive.
        peak_bytes: The most that was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_bytes = self.peak_bytes = 0
        self._alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(
        self,
        func: object,
        types: object,
        args: tuple = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run an operation and count what it returned."""
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor):
                self._count(result)
        passing = self.scratch_bytes(func, args)
        self.peak_bytes = max(self.peak_bytes, self.now_bytes + passing)
        return results

    def scratch_bytes(self, func: object, args: tuple) -> int:
        """Return what an operation takes beside its results until it is done; nothing, here."""
        return 0

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._alive[key] = weakref.ref(storage, lambda _: self._forget(key, size))
        self.now_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.now_bytes)

    def _forget(self, key: int, size: int) -> None:
        if self._alive.pop(key, None) is not None:
            self.now_bytes -= size


def without_data(network: nn.Module, *, device: str = "meta") -> nn.Module:
    """Copy a network, in evaluation mode, with weights that have sizes only; it is not touched.

    Args:
        network: Any module; may be compiled.
        device: Where the copy seems to be; "cpu" needs torch's `FakeTensorMode` around the call.
    """
    original = getattr(network, "_orig_mod", network)  # of torch.compile
    empty: dict[int, object] = {}
    for tensor in (*original.parameters(), *original.buffers()):
        bare = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        is_weight = isinstance(tensor, nn.Parameter)
        empty[id(tensor)] = nn.Parameter(bare, tensor.requires_grad) if is_weight else bare
    return copy.deepcopy(original, empty).eval()


def _run(network: nn.Module, shape: Sequence[int]) -> None:
    with torch.no_grad(), _no_autocast():
        network(torch.empty(tuple(shape), device="meta"))


@contextlib.contextmanager
def _no_autocast() -> Iterator[None]:
    """Count in float32 also within a caller's autocast."""
    with torch.autocast("cpu", enabled=False):
        if not torch.cuda.is_available():
            yield
            return
        with torch.autocast("cuda", enabled=False):
            yield


def _watch(network: nn.Module) -> dict[Triple, list[tuple[int, int]]]:
    """Return rows that fill while the network runs: width and multiply-adds by grid."""
    rows: dict[Triple, list[tuple[int, int]]] = {}

    def note(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        # A transposed convolution spreads each voxel it is given, others gather for what they make.
        met = given[0] if isinstance(layer, nn.ConvTranspose3d) else made
        count = met[:, 0].numel() * layer.weight.numel()
        rows.setdefault(tuple(made.shape[2:]), []).append((made.shape[1], count))

    for layer in network.modules():
        if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
            layer.register_forward_hook(note)
    return rows


def _times(size_vox: Triple) -> str:
    return "x".join(map(str, size_vox))
