"""Prepare a case step by step, ours and the peers' way: what `benchmarks/preprocess.py` times."""

import tempfile
import warnings
from functools import partial

import numpy as np

SIZE_VOX = (128, 128, 128)
Arrays = tuple[np.ndarray, np.ndarray]  # image (4, I, J, K) float32 and labels (I, J, K), RAS+


def ours(case: object, size_vox: tuple | None, threads: int) -> Arrays:
    from bratskit.preprocess import load_prepared

    prepared = load_prepared(case, make_recipe(size_vox), threads=threads)
    return prepared.image, prepared.labels


def ours_by_scan(case: object, size_vox: tuple | None, threads: int) -> Arrays:
    from bratskit.cases import load_scan
    from bratskit.preprocess import prepare_scan

    prepared = prepare_scan(load_scan(case, threads=threads), make_recipe(size_vox))
    return prepared.image, prepared.labels


def monai(case: object, size_vox: tuple | None, threads: int) -> Arrays:
    from monai import transforms as mt

    both = ["image", "labels"]
    chain = [
        mt.LoadImaged(both),
        mt.EnsureChannelFirstd(both),
        mt.Orientationd(both, axcodes="RAS", labels=None),
        mt.CropForegroundd(both, source_key="image"),
        mt.NormalizeIntensityd("image", nonzero=True, channel_wise=True),
    ]
    if size_vox:
        chain.append(mt.Resized(both, size_vox, mode=("trilinear", "nearest")))
    files = {"image": [str(path) for path in case.paths.values()], "labels": str(case.labels_path)}
    made = mt.Compose(chain)(files)
    return made["image"].numpy(), _internal(made["labels"][0].numpy())


def torchio(
    case: object, size_vox: tuple | None, threads: int, *, resample: bool = False
) -> Arrays:
    import torchio as tio

    subject = tio.Subject(
        **{name: tio.ScalarImage(path) for name, path in case.paths.items()},
        labels=tio.LabelMap(case.labels_path),
    )
    subject = tio.ToCanonical()(subject)
    brain = sum(subject[name].data != 0 for name in case.paths) > 0
    subject.add_image(tio.LabelMap(tensor=brain, affine=subject["labels"].affine), "brain")
    steps = [tio.Resample(1)] if resample else []
    steps.append(tio.CropOrPad(None, mask_name="brain"))
    steps.append(tio.ZNormalization(masking_method=lambda values: values != 0))
    if size_vox:
        steps.append(tio.Resize(size_vox))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it mends a grid that is one voxel off
        subject = tio.Compose(steps)(subject)
    image = np.concatenate([subject[name].numpy() for name in case.paths])
    return image, _internal(subject["labels"].numpy()[0])


def nnunet(case: object, size_vox: tuple | None, threads: int) -> Arrays:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
    from nnunetv2.preprocessing.normalization import default_normalization_schemes as schemes

    image, _ = SimpleITKIO().read_images([str(path) for path in case.paths.values()])
    labels, _ = SimpleITKIO().read_seg(str(case.labels_path))
    image, labels, _ = crop_to_nonzero(image.astype(np.float32), labels)
    zscore = schemes.ZScoreNormalization(use_mask_for_norm=True, intensityproperties={})
    for channel in range(len(image)):
        image[channel] = zscore.run(image[channel], labels[0])
    # Its own axes, K J I; turned to RAS+ for the comparison by views, which cost nothing.
    to_ras = (slice(None, None, -1), slice(None, None, -1))
    labels = np.maximum(labels[0].astype(np.int8), 0).T[to_ras]
    return image.transpose(0, 3, 2, 1)[(slice(None), *to_ras)], _internal(labels)


def plain(case: object, size_vox: tuple | None, threads: int) -> Arrays:
    import nibabel as nib
    from scipy import ndimage

    files = [nib.as_closest_canonical(nib.load(path)) for path in case.paths.values()]
    image = np.stack([file.get_fdata(dtype=np.float32) for file in files])
    labels = np.asarray(nib.as_closest_canonical(nib.load(case.labels_path)).dataobj)
    where = np.nonzero((image != 0).any(axis=0))
    box = tuple(slice(axis.min(), axis.max() + 1) for axis in where)
    image, labels = image[(slice(None), *box)], labels[box]
    for channel in image:
        inside = channel != 0
        channel[inside] = (channel[inside] - channel[inside].mean()) / channel[inside].std()
    if size_vox:
        zoom = np.divide(size_vox, labels.shape)
        same_faces = {"mode": "nearest", "grid_mode": True}  # voxel centres as ours has them
        image = np.stack([ndimage.zoom(c, zoom, order=1, **same_faces) for c in image])
        labels = ndimage.zoom(labels, zoom, order=0, **same_faces)
    return image, _internal(labels)


def ours_to_disk(case: object, size_vox: tuple | None, threads: int, *, form: str) -> None:
    from bratskit.preprocess import load_prepared, save_prepared

    with tempfile.TemporaryDirectory() as folder:
        prepared = load_prepared(case, make_recipe(size_vox), threads=threads)
        save_prepared(prepared, folder, form=form)


def nnunet_to_disk(case: object, size_vox: tuple | None, threads: int) -> None:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

    resampling = "resample_data_or_seg_to_shape"
    same = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "architecture": {},
        "patch_size": SIZE_VOX,
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"] * 4,
        "use_mask_for_norm": [True] * 4,
        "resampling_fn_data": resampling,
        "resampling_fn_data_kwargs": same,
        "resampling_fn_seg": resampling,
        "resampling_fn_seg_kwargs": same | {"is_seg": True, "order": 1},
    }
    plans = {
        "transpose_forward": [0, 1, 2],
        "image_reader_writer": "SimpleITKIO",
        "foreground_intensity_properties_per_channel": {str(channel): {} for channel in range(4)},
        "label_manager": "LabelManager",
        "experiment_planner_used": "ExperimentPlanner",
    }
    names = {"background": 0, "NCR": 1, "ED": 2, "ET": 4}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        DefaultPreprocessor(verbose=False).run_case_save(
            f"{folder}/case",
            [str(path) for path in case.paths.values()],
            str(case.labels_path),
            PlansManager(plans),
            ConfigurationManager(configuration),
            {"labels": names, "file_ending": ".nii.gz", "channel_names": dict.fromkeys("0123")},
        )


def _internal(labels: np.ndarray) -> np.ndarray:
    """Map BraTS 2017-2021 integers, as a line of any training script does: 4 becomes 3."""
    return np.where(labels == 4, 3, labels).astype(np.uint8)


def make_recipe(size_vox: tuple | None) -> object:
    from bratskit.settings import GeometrySettings, Recipe

    return Recipe(name="benchmark", geometry=GeometrySettings(size_vox=size_vox))


PIPELINES = {
    "ours": (ours, "bratskit"),
    "ours, by way of a Scan": (ours_by_scan, "bratskit"),
    "nibabel + scipy": (plain, "scipy"),
    "MONAI": (monai, "monai"),
    "TorchIO": (torchio, "torchio"),
    "TorchIO + Resample(1)": (partial(torchio, resample=True), "torchio"),
    "nnU-Net": (nnunet, "nnunetv2"),
}
TO_DISK = {
    "ours, fast form": (partial(ours_to_disk, form="fast"), "bratskit"),
    "ours, compact form": (partial(ours_to_disk, form="compact"), "blosc2"),
    "nnU-Net run_case_save": (nnunet_to_disk, "nnunetv2"),
}
