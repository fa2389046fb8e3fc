"""Shrink a recipe until a CPU learns from it in seconds; what it teaches stays the same."""

from collections.abc import Sequence
from dataclasses import replace

from bratskit.settings.checks import Triple, check
from bratskit.settings.stages import Recipe

__all__ = ["miniature"]

MOST_LEVELS = 5  # patches of 32 voxels then still have two along each axis at the deepest
SHRINKABLE = ("unet", "segresnet", "dynunet")  # whose channels may be any, or any that double


def miniature(
    recipe: Recipe, *, spacing_mm: float = 4.0, epochs: int = 2, steps_per_epoch: int = 5
) -> Recipe:
    """Make voxels larger, and everything counted in voxels or channels smaller by as much.

    Kept are modalities, intensities, targets, kind and options of the network, loss, augmentation,
    optimiser, learning rate, schedule, batch, accumulation, shares of patches, and what happens to
    a mask. Smaller are grid, patch, window, channels and steps; levels beyond the fifth are left
    out. It is for seeing that a recipe runs and learns: no score of it says anything of the recipe.

    Args:
        recipe: Any of the named ones, or one of your own.
        spacing_mm: Voxel size of the small one.
        epochs: Epochs of it.
        steps_per_epoch: Optimiser steps of each.

    Returns:
        The small recipe, under the same name.

    Raises:
        ValueError: The recipe's voxels are larger already, or its network cannot be made narrower.

    Examples:
        >>> from bratskit.settings import get_recipe
        >>> small = miniature(get_recipe("unet-b"))
        >>> small.training.patch_vox, small.network.channels, small.network.norm
        ((32, 32, 16), (4, 8, 16, 32, 64), 'batch')
    """
    geometry, network = recipe.geometry, recipe.network
    check(
        network.name in SHRINKABLE,
        f"network must be one of {SHRINKABLE} to be made narrower; got {network.name!r}.",
    )
    factor = spacing_mm / min(geometry.spacing_mm or (1.0, 1.0, 1.0))
    check(
        factor >= 1,
        f"spacing_mm must be at least the recipe's {geometry.spacing_mm}; got {spacing_mm}.",
    )
    finest = network.channels[0]
    narrow = max(2, round(finest / factor)) / finest  # one factor, so that doubling stays doubling
    channels = tuple(round(width * narrow) for width in network.channels[:MOST_LEVELS])
    network = replace(network, channels=channels)
    multiple = network.multiple_vox
    training = replace(
        recipe.training,
        patch_vox=_shrink(recipe.training.patch_vox, factor, multiple),
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        validate_every=epochs,
        extra_phantoms=0,
    )
    window = _shrink(recipe.inference.window_vox, factor, multiple)
    return replace(
        recipe,
        geometry=replace(
            geometry,
            spacing_mm=(spacing_mm,) * 3,
            size_vox=geometry.size_vox and _shrink(geometry.size_vox, factor, multiple),
            crop_vox=geometry.crop_vox and _shrink(geometry.crop_vox, factor, multiple),
        ),
        network=network,
        training=training,
        inference=replace(recipe.inference, window_vox=window),
    )


def _shrink(size_vox: Sequence[int], factor: float, multiple: int) -> Triple:
    """Divide a size, and take the nearest that halves often enough, of 16 voxels or more.

    Examples:
        >>> _shrink((160, 192, 128), 4, 16)
        (32, 48, 32)
    """
    least = max(16, multiple)
    i, j, k = (max(least, round(n / factor / multiple) * multiple) for n in size_vox)
    return i, j, k
