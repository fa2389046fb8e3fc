"""Each deliberate fault of the trainer, put into its source, turns the test named beside it red.

The table is `FAULTS`: what is broken, where, the text as it is and as it would be, and the test
that must notice. `pytest tests/test_training_faults.py -m slow` breaks a copy of the package by
each in turn and runs the tests named; the quick test only sees that no row has gone stale.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]


class Fault(NamedTuple):
    """One line of source that could be wrong.

    Attributes:
        what: The fault in words.
        file: Where, below the package.
        right: Text of the source; it occurs once.
        wrong: Text in its place.
        test: The test that must turn red, or a few of them.
    """

    what: str
    file: str
    right: str
    wrong: str
    test: str


STEP, STATE, PLUG = "train/step.py", "train/state.py", "test_pulled_plug.py"
LABELS = "        labels = labels.to(self.device, non_blocking=True)\n"
UNSCALE = "        self.scaler.unscale_(self.optimiser)\n"
CLIP = "            clip_gradients(self.network, norm, largest=self.settings.clip_norm)\n"
NEVER_AGAIN = "        self.optimiser.zero_grad(set_to_none=True)\n        total, seen"
SHARE = "self.settings.accumulate * (len(image) / (part.stop - part.start))"
BACKWARD = "            self.scaler.scale(loss / of).backward()\n"
RESTORED = "        self.optimiser.load_state_dict(state["
SCALER = "            self.scaler.load_state_dict(state["
AVERAGED = "            self.average.load(state["
WRITE = "write_atomically(path, lambda temporary: temporary.write_bytes(data), durable=True)"
SAMPLER = '    sampler.load_state_dict(training["sampler"])\n'
TORCH_RNG = '    torch.set_rng_state(training["torch_rng"])\n'
GO_ON = "test_step.py::test_a_learner_goes_on_from_its_state_bit_for_bit"
RESUME = "test_resume.py::test_an_interrupted_run_ends_with_the_same_bits[1]"

FAULTS = [
    Fault(
        "gradients are never zeroed", STEP, NEVER_AGAIN, "        total, seen",
        "test_step.py::test_gradients_are_zeroed_between_steps",
    ),
    Fault(
        "the loss is not divided by the group", STEP, SHARE,
        "len(image) / (part.stop - part.start)",
        "test_step.py::test_four_accumulated_batches_equal_one_batch_of_four",
    ),
    Fault(
        "the weights move before the group is complete", STEP, BACKWARD,
        BACKWARD + "            self.optimiser.step()\n",
        "test_step.py::test_four_accumulated_batches_move_the_weights_as_one_batch_of_four_does",
    ),
    Fault(
        "patches are learned with each other's labels", STEP, LABELS,
        LABELS + "        labels = labels.flip(0)\n",
        "test_step.py::test_a_patch_is_learned_with_its_own_labels",
    ),
    Fault(
        "two labels are swapped", STEP, LABELS,
        LABELS + "        labels = torch.tensor([0, 1, 3, 2])[labels]\n",
        "test_step.py::test_a_patch_is_learned_with_its_own_labels",
    ),
    Fault(
        "unscale_ is forgotten", STEP, UNSCALE, "",
        "test_step.py::test_the_gradient_is_clipped_to_its_norm",
    ),
    Fault(
        "gradients are clipped before they are unscaled", STEP, UNSCALE,
        CLIP[4:].replace("norm, ", "gradient_norm(self.network), ") + UNSCALE,
        "test_step.py::test_an_fp16_step_is_an_fp32_step_to_its_precision_when_clipped",
    ),
    Fault(
        "nothing is clipped", STEP, CLIP, "            pass\n",
        "test_step.py::test_the_gradient_is_clipped_to_its_norm",
    ),
    Fault(
        "the average is not updated", STEP, "if self.average and is_finite:", "if False:",
        "test_step.py::test_the_average_is_the_sum_by_hand",
    ),
    Fault(
        "a skipped step is averaged", STEP, "if self.average and is_finite:", "if self.average:",
        "test_step.py::test_an_overflow_now_and_then_is_skipped_and_forgotten",
    ),
    Fault(
        "running statistics are not averaged", "train/average.py",
        "[*network.parameters(), *network.buffers()]", "[*network.parameters()]",
        "test_step.py::test_the_average_is_the_sum_by_hand",
    ),
    Fault(
        "the latest weights are validated, not the average", STEP,
        "return self.average.network if self.average else self.network", "return self.network",
        "test_best.py::test_the_average_is_what_is_validated_and_kept_and_last_holds_both",
    ),
    Fault(
        "a batch in unequal parts counts parts, not patches", STEP, SHARE,
        "self.settings.accumulate * len(self.fallback.parts(len(image)))",
        "test_step.py::test_parts_of_unequal_size_count_by_their_patches",
    ),
    Fault(
        "after out of memory only the last batch is learned again", STEP,
        "total, todo = 0.0, [*seen]", "total, todo = 0.0, [batch]",
        "test_step.py::test_memory_that_ends_late_in_a_step_begins_the_whole_step_again",
    ),
    Fault(
        "batch norm counts the attempt that ran out of memory", STEP,
        "                buffer.copy_(before)\n", "                pass\n",
        "test_step.py::test_batch_norm_counts_no_patch_that_was_not_learned_from_and_the_line_says"
        "_what_changes",
    ),
    Fault(
        "the rate is one step late after a resume", STEP, 'int(state["step"])',
        'int(state["step"]) + 1', RESUME,
    ),
    Fault(
        "the optimiser is not restored", STEP, RESTORED,
        RESTORED.replace("self", "0 and self"), GO_ON,
    ),
    Fault(
        "the scaler is not restored", STEP, SCALER, SCALER.replace("self", "0 and self"), GO_ON,
    ),
    Fault(
        "the average is not restored", STEP, AVERAGED,
        AVERAGED.replace("self", "0 and self"), GO_ON,
    ),
    Fault("the sampler is not restored", STATE, SAMPLER, "", RESUME),
    Fault("torch's generator is not restored", STATE, TORCH_RNG, "", RESUME),
    Fault(
        "Python's generator is not restored", STATE,
        "        random.setstate((version, tuple(words), gauss))\n", "",
        "test_resume.py::test_generators_that_only_libraries_draw_from_go_on_too",
    ),
    Fault(
        "NumPy's generator is not restored", STATE,
        '        np.random.set_state(json.loads(training["numpy_rng"]))', "        pass",
        "test_resume.py::test_generators_that_only_libraries_draw_from_go_on_too",
    ),
    Fault(
        "the last validation is kept, not the best", "train/loop.py",
        "find_best(history, self.recipe.training.select_by) is row or", "True or",
        "test_best.py::test_the_best_is_the_best_of_the_named_metric",
    ),
    Fault(
        "the longest distance is the best", "train/track.py",
        "-values if select_by.startswith(SMALLER_IS_BETTER) else values", "values",
        "test_best.py::test_the_best_is_the_best_of_the_named_metric",
    ),
    Fault(
        "patience counts epochs", "train/track.py",
        "int(np.isfinite(later.column(training.select_by)).sum())", "len(later)",
        "test_best.py::test_patience_counts_validations_not_epochs_by_hand",
    ),
    Fault(
        "the stated mix of labels is not read", "train/patches.py",
        "shares.get(LABELS[label], 0.0)", "1.0",
        "test_patches.py::test_labels_are_centred_on_as_often_as_stated",
    ),
    Fault(
        "sampling reads whole volumes", "train/patches.py", "if not item.has_labels]",
        "if item.labels is None]",
        "test_patches.py::test_a_patch_reads_its_own_bytes_and_no_whole_volume",
    ),
    Fault(
        "a checkpoint is written over the old one", "networks/checkpoint.py", WRITE,
        "path.write_bytes(data)",
        f"{PLUG}::test_a_disk_that_is_full_after_any_byte_keeps_the_old_file",
    ),
    Fault(
        "a checkpoint is not flushed", "networks/checkpoint.py", ", durable=True)", ")",
        f"{PLUG}::test_the_disk_has_the_new_file_before_the_old_one_goes",
    ),
]  # fmt: skip

# One process imports torch; each fault is a fork of it that imports the broken package and asks.
ASK = """
import json, os, sys
from pathlib import Path
import nibabel, numpy, pytest, scipy.ndimage, torch
import torch._dynamo, torch._inductor.config  # what torch imports at a first step, and is slow to
torch.set_num_threads(1)
torch.use_deterministic_algorithms(False)
root, sys.dont_write_bytecode = Path(sys.argv[1]), True
sys.path[:0] = [str(root)]
os.chdir(root)

def ask(test):
    process = os.fork()
    if not process:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            os._exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", f"tests/{test}"]))
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

faults, answers = json.loads(sys.stdin.read()), {}
for test in sorted({fault[4] for fault in faults}):
    answers[f"as it is: {test}"] = ask(test)
for what, file, right, wrong, test in faults:
    place = root / "bratskit" / file
    source = place.read_text()
    place.write_text(source.replace(right, wrong))
    answers[what] = ask(test)
    print(what, answers[what], file=sys.stderr, flush=True)
    place.write_text(source)
print("ANSWERS" + json.dumps(answers))
"""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_every_fault_has_its_line_and_its_test(fault):
    source = (ROOT / "bratskit" / fault.file).read_text(encoding="utf-8")
    assert source.count(fault.right) == 1
    file, name = fault.test.split("::")
    assert f"def {name.split('[')[0]}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_each_fault_turns_its_test_red_and_nothing_else_does(tmp_path):
    for name in ("bratskit", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(tmp_path)],
        input=json.dumps(FAULTS),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert "ANSWERS" in done.stdout, done.stderr
    answers = json.loads(done.stdout.split("ANSWERS")[1])
    green = {name: 0 for name in answers if name.startswith("as it is: ")}
    red = {fault.what: 1 for fault in FAULTS}
    assert answers == green | red  # 0: all passed, 1: some failed, 2 and more: did not even run
