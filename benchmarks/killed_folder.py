"""Label a folder of patients by one command that is killed on the way, and write what it took.

    python benchmarks/killed_folder.py DIR OUT [--kills 8 18] [--model PATH]

Each kill (SIGKILL) comes a random moment after that many masks are there; the same command is then
started again. At the end a folder that nothing disturbed would have to be the same: that is what
tests/test_killed_predict.py shows on small cases, here only minutes and memory are measured.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from bratskit.runtime import made_by

RESULTS = Path(__file__).parent / "results" / "predict"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, nargs="*", default=[8, 18])
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    model = [] if options.model is None else ["--model", str(options.model)]
    command = [sys.executable, "-m", "bratskit", "predict", str(options.data), str(options.out)]
    rng = random.Random(0)
    runs = [run([*command, *model], options.out, n, rng) for n in [*options.kills, None]]
    result = {
        "command": "bratskit predict DIR OUT",
        "masks": len(list(options.out.glob("*.nii.gz"))),
        "left_over": len(list(options.out.glob(".*"))),
        "runs": runs,
        "wall_min": round(sum(one["wall_s"] for one in runs) / 60, 2),
        "cpu_min": round(sum(one["cpu_s"] for one in runs) / 60, 2),
        "peak_mib": max(one["peak_mib"] for one in runs),
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(one, 1) for one in os.getloadavg()],
        "threads": torch.get_num_threads(),
        "made_by": made_by(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "killed_folder.json").write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


def run(
    command: list[str], out: Path, n_masks: int | None, rng: random.Random
) -> dict[str, object]:
    """Run the command, to its end or until some masks are there; measure the process itself."""
    started, before = time.monotonic(), len(list(out.glob("*.nii.gz")))
    child = subprocess.Popen(command)
    if n_masks is not None:
        while len(list(out.glob("*.nii.gz"))) < n_masks and not has_ended(child.pid):
            time.sleep(0.1)
        time.sleep(rng.uniform(0, 5))
        child.send_signal(signal.SIGKILL)
    _, status, used = os.wait4(child.pid, 0)
    return {
        "ended": os.waitstatus_to_exitcode(status),
        "masks": len(list(out.glob("*.nii.gz"))) - before,
        "wall_s": round(time.monotonic() - started, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_mib": round(used.ru_maxrss / 1024),
    }


def has_ended(pid: int) -> bool:
    """Tell, and leave what the process used to be asked for later."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


if __name__ == "__main__":
    main()
