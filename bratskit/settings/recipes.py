"""Name the recipes: one word that sets everything, for a notebook or the shell.

What pipelines A to E state, what of it differs here and why, and what was chosen because nothing is
stated, stands in RECIPES.md beside this file; a test keeps both equal.
"""

from dataclasses import replace

from bratskit.settings.augmentation import AUGMENTATIONS, AugmentationSettings
from bratskit.settings.inference import InferenceSettings
from bratskit.settings.loss import LossSettings
from bratskit.settings.network import NetworkSettings
from bratskit.settings.stages import GeometrySettings, Recipe
from bratskit.settings.training import TrainingSettings

__all__ = ["OLD_NAMES", "RECIPES", "get_recipe"]

OLD_NAMES = {"unet-c": "segresnet-c"}  # still understood: C is no U-Net


def _small() -> list[Recipe]:
    """List what a CPU can learn.

    "smoke" learns next to nothing: it shows in seconds that everything runs. "tiny" works at 2 mm,
    where a patch holds most of a brain and a CPU learns in minutes; what that costs small lesions
    is the ceiling that notebook 01 draws. "laptop" works at 1.5 mm and mixes phantoms into few
    patients; "phantom" is the same network, learned from phantoms alone, a new one every few
    patches. All slide windows as large as their patches, because InstanceNorm ties the answer to
    the window.
    """
    smoke = Recipe(
        name="smoke",
        geometry=GeometrySettings(spacing_mm=(4.0, 4.0, 4.0)),
        network=NetworkSettings(channels=(4, 8, 16)),
        training=TrainingSettings(
            patch_vox=(32, 32, 32),
            batch=2,
            epochs=4,
            steps_per_epoch=10,
            validate_every=2,
            learning_rate=3e-3,
        ),
        inference=InferenceSettings(mode="single", window_vox=(32, 32, 32)),
    )
    tiny = Recipe(
        name="tiny",
        geometry=GeometrySettings(spacing_mm=(2.0, 2.0, 2.0)),
        network=NetworkSettings(channels=(8, 16, 32, 64, 128), norm="instance"),
        training=TrainingSettings(
            patch_vox=(64, 64, 64), batch=2, epochs=24, validate_every=4, learning_rate=2e-3
        ),
        inference=InferenceSettings(mode="window", window_vox=(64, 64, 64)),
    )
    laptop = Recipe(
        name="laptop",
        geometry=GeometrySettings(spacing_mm=(1.5, 1.5, 1.5)),
        network=NetworkSettings(channels=(16, 32, 64, 128, 128), norm="instance"),
        training=TrainingSettings(patch_vox=(80, 80, 80), epochs=40, extra_phantoms=24),
        inference=InferenceSettings(
            mode="window", window_vox=(80, 80, 80), smallest_component_vox=500
        ),
    )
    stream = replace(
        laptop.training, epochs=120, validate_every=10, extra_phantoms=0, phantom_share=1.0
    )
    return [smoke, tiny, laptop, replace(laptop, name="phantom", training=stream)]


def _references() -> list[Recipe]:
    """List the five pipelines of the project's brief, "unet-a" to "unet-e", C by its network.

    All see four patches a step, as A states. Where no norm is stated it is InstanceNorm: with one
    patch in a batch BatchNorm takes its statistics from that patch in training and from the past
    afterwards, two networks in effect. B states BatchNorm, and has two patches in a batch for it.
    """
    four = TrainingSettings(accumulate=4, epochs=100, steps_per_epoch=250)
    middle = GeometrySettings(region="grid", crop_vox=(128, 128, 128))
    instance = NetworkSettings(norm="instance")
    a = Recipe(
        name="unet-a",
        geometry=GeometrySettings(size_vox=(128, 128, 128)),
        network=instance,
        training=four,
    )
    b = Recipe(
        name="unet-b",
        network=NetworkSettings(norm="batch", dropout=0.2, dropout_at="levels"),
        training=replace(four, patch_vox=(128, 128, 64), batch=2, accumulate=2, patience=6),
        augmentation=AUGMENTATIONS["unet-b"],
        inference=InferenceSettings(
            mode="window", window_vox=(128, 128, 64), smallest_component_vox=500
        ),
    )
    c = Recipe(
        name="segresnet-c",
        targets="regions",
        network=NetworkSettings(
            name="segresnet", channels=(16, 32, 64, 128), norm="group", dropout=0.2
        ),
        loss=LossSettings(name="dice"),
        training=replace(four, optimiser="adam", weight_decay=1e-5),
        augmentation=AugmentationSettings(affine_share=0.0, gamma_share=0.0, noise_share=0.0),
        inference=InferenceSettings(mode="window"),
    )
    d = Recipe(
        name="unet-d",
        modalities=("flair", "t1ce", "t2"),
        normalise="minmax",
        geometry=middle,
        network=instance,
        loss=LossSettings(name="dice_focal"),
        training=four,
    )
    e = Recipe(name="unet-e", geometry=middle, network=instance, training=four)
    options = {
        "residual": {"block": "residual"},  # B's own option
        "attention": {"attention": True},  # and their planned work
        "dense": {"block": "dense"},
    }
    variants = [
        replace(b, name=f"unet-b-{name}", network=replace(b.network, **option))
        for name, option in options.items()
    ]
    large = replace(
        b,
        name="unet-b-large",
        training=replace(b.training, patch_vox=(160, 192, 128), batch=1, accumulate=4),
        network=replace(b.network, norm="instance"),
        inference=replace(b.inference, window_vox=(160, 192, 128)),
    )
    return [a, b, *variants, large, c, d, e]


def _strong() -> list[Recipe]:
    """List what a GPU is needed for.

    "t4" holds 5.4 GB in fp16 by pre-flight, and its 40,000 steps are 5.8 T floating-point
    operations each: 6 to 7 hours at a sixth of what the card can do, which is a guess. "best" is
    nnU-Net's training (Isensee 2021: SGD, poly, 1000 epochs of 250 steps, deep supervision) of a
    wider residual network on patches that hold nearly a whole brain, of regions by Dice and binary
    cross-entropy (Isensee 2020, arXiv:2011.00848), with averaged weights.
    """
    t4 = Recipe(
        name="t4",
        targets="regions",
        network=NetworkSettings(
            channels=(32, 64, 128, 256, 320),
            norm="instance",
            block="residual",
            deep_supervision=True,
        ),
        loss=LossSettings(name="dice_bce"),
        training=TrainingSettings(
            batch=2, epochs=200, steps_per_epoch=200, validate_every=40, ema_decay=0.999
        ),
        augmentation=AUGMENTATIONS["nnunet"],
        inference=InferenceSettings(mode="window", smallest_component_vox=200),
    )
    best = replace(
        t4,
        name="best",
        network=replace(t4.network, channels=(32, 64, 128, 256, 320, 320)),
        training=TrainingSettings(
            patch_vox=(160, 192, 128),
            batch=2,
            epochs=1000,
            steps_per_epoch=250,
            validate_every=50,
            optimiser="sgd",
            learning_rate=1e-2,
            weight_decay=3e-5,
            schedule="poly",
            ema_decay=0.999,
        ),
        augmentation=AUGMENTATIONS["strong"],
        inference=replace(t4.inference, window_vox=(160, 192, 128)),
    )
    return [t4, best]


RECIPES = {recipe.name: recipe for recipe in (*_small(), *_references(), *_strong())}


def get_recipe(name: str) -> Recipe:
    """Look a named recipe up; a name of `OLD_NAMES` still finds it.

    Raises:
        ValueError: The name is unknown; the message lists the names that exist.

    Examples:
        >>> get_recipe("tiny").network.multiple_vox
        16
        >>> get_recipe("unet-c").name
        'segresnet-c'
    """
    name = OLD_NAMES.get(name, name)
    if name not in RECIPES:
        msg = f"recipe must be one of {sorted(RECIPES)}; got {name!r}."
        raise ValueError(msg)
    return RECIPES[name]
