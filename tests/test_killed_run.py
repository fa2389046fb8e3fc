"""A run killed with SIGKILL, in an epoch or a write, ends as one that was not: to the last bit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

# One process imports torch once; each killed run is a fork of it, which SIGKILLs itself at a
# moment that is known, and is then gone on with. Everything drawn and learned is written down.
KILLS = r"""
import dataclasses, json, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from training import fill_store, small_recipe, small_split
from bratskit.cases import Split
from bratskit.runtime import RunFolder
from bratskit.settings import GeometrySettings
from bratskit.train import History, Learner, MixedSampler, PatchSampler, train

kind, root = sys.argv[2], Path(sys.argv[3])
ids = fill_store(root / "prepared", n_cases=4)
split = small_split(ids)
rough = {"epochs": 3, "steps_per_epoch": 2, "ema_decay": 0.9, "dropout": 0.2, "accumulate": 2}
recipe = {
    "labels": lambda: small_recipe(
        **rough, batch=1, optimiser="sgd", schedule="poly", learning_rate=0.01, patience=9,
        label_share={"NCR": 0.1, "ED": 0.2, "ET": 0.7}, select_by="dice_ET",
    ),
    "fp16": lambda: small_recipe(**rough, precision="fp16", batch=1),
    "stream": lambda: dataclasses.replace(
        small_recipe(**rough, phantom_share=1.0, phantom_pool=2, phantom_reuse=3, batch=1),
        geometry=GeometrySettings(spacing_mm=(8.0, 8.0, 8.0)),
    ),
}[kind]()
if kind == "stream":
    split = Split(train=(), validation=(), test=())

drawn = None
real_step, real_draws = Learner.step, {one: one.draw for one in (PatchSampler, MixedSampler)}

def write_down(sampler):
    def draw(self, batch):
        places = real_draws[sampler](self, batch)
        if sampler is MixedSampler or kind != "stream":
            with drawn.open("a") as file:
                file.write(json.dumps([[list(place) for place in places]]) + "\n")
        return places
    return draw

for sampler in real_draws:
    sampler.draw = write_down(sampler)

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def in_epoch():  # the second step of epoch 2
    def step(self, *given, **named):
        return die() if self.step_number == 3 else real_step(self, *given, **named)
    Learner.step = step

def in_write(name, epoch):  # half of the file is written
    real, count = Path.write_bytes, [0]
    def write(self, data):
        count[0] += self.name.endswith(name)
        if count[0] == epoch and self.name.endswith(name):
            with self.open("wb") as file:
                file.write(data[: len(data) // 2])
                file.flush()
                die()
        return real(self, data)
    Path.write_bytes = write

def before_history():  # last.pt has epoch 2, history.jsonl has not
    real = History.save
    History.save = lambda self, path: die() if len(self) == 2 else real(self, path)

MOMENTS = {
    "in the second step of epoch 2": in_epoch,
    "in writing last.pt of epoch 2": lambda: in_write("last.pt", 2),
    "in writing best.pt": lambda: in_write("best.pt", 1),
    "between last.pt and the history of epoch 2": before_history,
}

def go(place):
    global drawn
    drawn = place.with_suffix(".drawn")
    return train(root / "prepared", RunFolder(place), recipe=recipe, split=split,
                 deterministic=True, device=torch.device("cpu"))

def plain(value):
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), list(value.shape), value.numpy().tobytes().hex()]
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

def left(place):
    last = torch.load(place / "last.pt", weights_only=True)
    training = dict(last["training"])
    rows = json.loads(training.pop("history"))
    assert [json.loads(line) for line in (place / "history.jsonl").read_text().splitlines()] == rows
    for row in rows:
        del row["seconds"]
    best = torch.load(place / "best.pt", weights_only=True)
    card = {name: best["card"][name] for name in best["card"] if name != "made_by"}
    return {
        "weights": plain(last["state_dict"]), "best": plain(best["state_dict"]), "card": card,
        "average": plain(training["learner"].pop("average")),
        "optimiser": plain(training["learner"].pop("optimiser")),
        "scaler": plain(training["learner"].pop("scaler")),
        "the rest": plain(training), "history": rows,
        "files": sorted(path.name for path in place.iterdir()),
    }

def died(number, moment):
    process = os.fork()
    if not process:
        MOMENTS[moment]()
        go(root / f"killed{number}")
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL

def order(place):
    return [json.loads(line) for line in place.with_suffix(".drawn").read_text().splitlines()]

report = {}
for number, moment in enumerate(MOMENTS):
    report[moment] = {"died": died(number, moment)}
go(root / "whole")
whole, each = left(root / "whole"), recipe.training.steps_per_epoch * recipe.training.accumulate
drawn_whole = [order(root / "whole")[at : at + each] for at in range(0, 3 * each, each)]
for number, moment in enumerate(MOMENTS):
    place = root / f"killed{number}"
    before = order(place)
    go(place)
    after = left(place)
    report[moment]["differ"] = [name for name in whole if after[name] != whole[name]]
    rest = order(place)[len(before) :]
    epochs_again = [rest[at : at + each] for at in range(0, len(rest), each)]
    started = [before[at : at + each] for at in range(0, len(before), each)]
    report[moment]["drew the same before"] = started == drawn_whole[: len(started)]
    report[moment]["drew the rest"] = epochs_again == drawn_whole[3 - len(epochs_again) :]
    report[moment]["epochs again"] = len(epochs_again)
print("REPORT" + json.dumps(report))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["labels", "stream", "fp16"])
def test_a_run_killed_anywhere_ends_with_the_same_bits(tmp_path, kind: str):
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(TESTS), kind, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
        check=False,
    )
    assert "REPORT" in done.stdout, done.stderr
    report = json.loads(done.stdout.split("REPORT")[1])
    epochs_again = {moment: facts.pop("epochs again") for moment, facts in report.items()}
    right = {"died": True, "differ": [], "drew the same before": True, "drew the rest": True}
    assert report == dict.fromkeys(report, right)
    assert epochs_again == {
        "in the second step of epoch 2": 2,
        "in writing last.pt of epoch 2": 2,
        "in writing best.pt": 3 if kind == "stream" else 2,  # the stream validates on nobody
        "between last.pt and the history of epoch 2": 1,
    }
