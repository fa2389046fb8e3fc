"""The doctor is silent on a sound case, names each planted fault, and always says the mend."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from bratskit.cases import check_case, check_folder, findings_table
from bratskit.labels import MODALITIES

SHAPE = (24, 28, 20)


@pytest.fixture
def case(tmp_path, write_case):
    return write_case(tmp_path, "pat7", shape=SHAPE)


def edit(path, change):
    """Put a file's voxels through `change`, keeping its grid."""
    image = nib.load(path)
    array = change(np.asarray(image.dataobj).copy())
    nib.save(nib.Nifti1Image(array, image.affine), path)


def only(findings):
    (finding,) = findings
    assert finding.mend
    assert finding.case == "pat7"
    return finding.severity, f"{finding.where}: {finding.what}"


def sound(findings):
    """Leave out what every small test case has: an enhancing tumour below half a millilitre."""
    return [finding for finding in findings if "tiny enhancing" not in finding.what]


def test_sound_case_has_no_finding(case):
    assert sound(check_case(case)) == []


def test_missing_slab_is_measured_and_placed(case):
    def cut(array):
        array[:, 4:13] = 0  # disk j = 4..12 is J = 27 - 12 .. 27 - 4 in RAS+
        return array

    edit(case.paths["flair"], cut)
    severity, text = only(sound(check_case(case)))
    assert severity == "warning"
    assert text.startswith("pat7_flair.nii.gz: ")
    assert "9 slices from J = 15 to 23" in text


def test_rescaled_modalities_are_one_note_and_saturated_ones_a_warning(case):
    def stretch(array):
        return (array * (32767 / array.max())).astype(np.int16)

    for name in ("t1", "t2"):
        edit(case.paths[name], stretch)
    assert only(sound(check_case(case)))[0] == "note"
    top = np.quantile(np.asarray(nib.load(case.paths["t1"]).dataobj), 0.97)
    edit(case.paths["t1"], lambda array: np.where(array > top, 32767, array).astype(np.int16))
    told = {one.where: (one.severity, one.what[:9]) for one in sound(check_case(case))}
    assert told == {
        "pat7_t1.nii.gz": ("warning", "saturated"),
        "pat7_t2.nii.gz": ("note", "rescaled "),
    }


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda array: np.zeros_like(array), "constant: only 0"),
        (lambda array: np.where(array, 7, 0).astype(np.int16), "constant: only 7"),
        (lambda array: np.where(array > 350, np.nan, array).astype(np.float32), "NaN or infinity"),
        (lambda array: array[:-1], "got shape (23, 28, 20)"),
        (lambda array: np.stack([array, array], axis=-1), "one 3D volume"),
    ],
    ids=["empty", "constant", "nan", "shape", "4d"],
)
def test_unusable_modality_is_a_problem(case, change, what):
    edit(case.paths["t1ce"], change)
    severity, text = only(sound(check_case(case)))
    assert severity == "problem"
    assert text.startswith("pat7_t1ce.nii.gz: ")
    assert what in text


def test_background_that_is_not_zero_is_a_warning(case):
    edit(case.paths["t2"], lambda array: array + 1)
    severity, text = only(sound(check_case(case)))
    assert (severity, text) == ("warning", "pat7_t2.nii.gz: background is 1 instead of 0")


def test_absent_and_tiny_enhancing_tumour_are_notes(tmp_path, write_case):
    labels = np.full(SHAPE, 0)
    labels[10:14, 10:14, 8:12] = 2
    case = write_case(tmp_path, "pat7", shape=SHAPE, labels=labels)
    assert only(check_case(case)) == ("note", "pat7_seg.nii.gz: no enhancing tumour (ET)")
    labels[11, 11, 9] = 4
    case = write_case(tmp_path, "pat7", shape=SHAPE, labels=labels)
    assert "1 voxels, 0.00 ml" in only(check_case(case))[1]


def test_empty_mask_is_a_warning(tmp_path, write_case):
    case = write_case(tmp_path, "pat7", shape=SHAPE, labels=np.zeros(SHAPE))
    assert only(check_case(case)) == ("warning", "pat7_seg.nii.gz: the mask is empty")


def test_unknown_label_is_a_problem_that_names_the_fitting_schema(tmp_path, write_case):
    write_case(tmp_path, "pat7", shape=SHAPE, schema="brats2023-gli")
    (finding,) = check_folder(tmp_path, schema="brats2017-2021")
    assert finding.what.endswith("got [3]")
    assert "brats2023-gli" in finding.mend
    assert sound(check_folder(tmp_path, schema="brats2023-gli")) == []


def test_mask_of_another_head_is_a_problem(case):
    edit(case.labels_path, lambda array: np.roll(array, 12, axis=0))
    severity, text = only(sound(check_case(case)))
    assert severity == "problem"
    assert text.startswith("pat7_seg.nii.gz: 58% of the tumour lies outside the brain")


def test_several_faults_are_all_told_and_never_hide_each_other(case, tmp_path, write_case):
    write_case(tmp_path, "zz", shape=SHAPE)
    case.paths["t1"].unlink()
    case.paths["t2"].write_bytes(case.paths["t2"].read_bytes()[:500])
    edit(case.labels_path, lambda array: np.where(array == 4, 9, array).astype(np.uint8))
    findings = check_folder(tmp_path)
    assert [one.where for one in findings if one.case == "pat7" and one.kind != "look-alike"] == [
        "pat7_t1.nii.gz",
        "pat7_t2.nii.gz",
        "pat7_seg.nii.gz",
    ]
    assert sound([one for one in findings if one.case == "zz"]) == []


def test_two_cases_of_one_head_are_told_apart_from_two_heads(case, tmp_path, write_case):
    twin = write_case(tmp_path, "twin", shape=SHAPE)
    for name, path in case.paths.items():
        twin.paths[name].write_bytes(path.read_bytes())
    (finding,) = sound(check_folder(tmp_path))
    assert (finding.kind, finding.where) == ("twin", "pat7, twin")
    assert "flair, t1, t1ce, t2" in finding.what


def test_two_files_for_one_modality_are_told(case, tmp_path):
    (tmp_path / "pat7" / "pat7_t1.nii").write_bytes(b"")
    assert "2 files for t1" in [finding.what for finding in check_folder(tmp_path)]


def test_folder_without_cases_is_a_problem_and_a_missing_one_is_refused(tmp_path):
    (finding,) = check_folder(tmp_path)
    assert finding.severity == "problem"
    assert "<case>_flair.nii.gz" in finding.mend
    with pytest.raises(FileNotFoundError, match="Give the folder that holds the cases"):
        check_folder(tmp_path / "nowhere")


def test_table_puts_the_worst_first_and_counts(case):
    case.paths["t1"].unlink()
    lines = findings_table(check_case(case)).splitlines()
    assert lines[0].startswith("problem  pat7  pat7_t1.nii.gz: must exist; got no file")
    assert lines[1].lstrip().startswith("-> Copy it there again")
    assert lines[-1] == "1 problem, 0 warnings, 1 note"


def test_a_single_hot_voxel_is_a_warning_that_names_its_value(case):
    def heat(array):
        array = array.astype(np.float32)
        array[12, 14, 10] = 1e7
        return array

    edit(case.paths["flair"], heat)
    severity, text = only(sound(check_case(case)))
    assert severity == "warning"
    assert text.startswith("pat7_flair.nii.gz: 1 voxel far beyond all others, up to 1e+07")


def test_values_beyond_float32_are_a_problem_and_no_message_holds_nan(case):
    edit(case.paths["t1"], lambda array: array * 1e38)
    severity, text = only(sound(check_case(case)))
    assert severity == "problem"
    assert "e+40, too large for float32" in text
    edit(case.paths["t1"], lambda array: array * 1e-3)  # up to 3e37: large, and right
    assert sound(check_folder(case.paths["t1"].parent)) == []


def test_a_suffix_in_capitals_is_a_suffix(case):
    path = case.paths["t2"]
    loud = path.rename(path.with_name("pat7_t2.NII.GZ"))
    assert sound(check_case(replace(case, paths=case.paths | {"t2": loud}))) == []


@pytest.mark.slow
def test_real_cases_show_the_quirks_their_readme_lists_and_no_others(real_cases):
    rescaled = ", ".join(f"BraTS2021_01482_{name}.nii.gz" for name in MODALITIES)
    assert {(one.case, one.kind, one.severity, one.where) for one in check_folder(real_cases)} == {
        ("BraTS2021_01476", "tiny-et", "note", "BraTS2021_01476_seg.nii.gz"),
        ("BraTS2021_01477", "no-et", "note", "BraTS2021_01477_seg.nii.gz"),
        ("BraTS2021_01480", "no-et", "note", "BraTS2021_01480_seg.nii.gz"),
        ("BraTS2021_01482", "rescaled", "note", rescaled),
        ("Brats18_2013_20_1", "slab", "warning", "Brats18_2013_20_1_flair.nii.gz"),
    }
