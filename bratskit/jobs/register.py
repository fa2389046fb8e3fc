"""Answer `bratskit register`: scans on grids of their own, to cases on one; parses no words."""

import argparse
import sys

from bratskit.jobs.predict import LEFT_OUT, cases_of
from bratskit.runtime import RunFolder

__all__ = ["run_register"]


def run_register(options: argparse.Namespace) -> int:
    """Do what the words after `bratskit register` ask for, and return the exit code."""
    cases, faults = cases_of(options)
    RunFolder(options.out).create()

    from bratskit.preprocess.registered import register_folder

    for case_id, why in faults.items():
        sys.stderr.write(f"register: {case_id} failed: {why}\n")
    spacing_mm = None if options.keep_grid else 1.0
    written, failed = register_folder(cases, options.out, spacing_mm=spacing_mm)
    n_failed = len(failed) + len(faults)
    left_out = f"; {n_failed} left out" if n_failed else ""
    sys.stdout.write(
        f"{len(written)} case{'' if len(written) == 1 else 's'} in {options.out}{left_out}. "
        f"Label: bratskit predict {options.out} MASKS\n"
    )
    return LEFT_OUT if n_failed else 0
