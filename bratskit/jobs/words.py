"""Define the words each command of the shell understands; it runs none of them."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import bratskit
from bratskit.jobs.folders import DEFAULT_RECIPE
from bratskit.labels import MODALITIES, SCHEMAS
from bratskit.settings import RECIPES

__all__ = ["BAD_INPUT", "CONVENTIONS", "make_parser"]

BAD_INPUT = 2
CONVENTIONS = {"brats": ("brats",), "nan-dropped": ("nan",), "all": ("brats", "nan")}

Add = Callable[..., argparse.ArgumentParser]  # makes the parser of one more command


class _Parser(argparse.ArgumentParser):
    """Refuse bad arguments in one line, as bad data is refused."""

    folder: argparse.Action | None = None  # DIR, where files named by options may stand for it

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Ask for no folder where files are named: argparse itself knows no such choice."""
        if self.folder is not None:
            flags = tuple(f"--{name}" for name in MODALITIES)
            is_named = any(word.split("=")[0] in flags for word in args or ())
            self.folder.nargs = "?" if is_named else None
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {message} (see `{self.prog} --help`)\n")
        raise SystemExit(BAD_INPUT)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands; `command` of what it parses is the name of the one."""
    parser = _Parser(prog="bratskit", description=bratskit.__doc__)
    parser.add_argument("--version", action="version", version=f"bratskit {bratskit.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for describe in (
        _demo, _check, _phantom, _prepare, _split, _train, _register, _tune, _models, _predict,
        _evaluate, _report, _export,
    ):  # fmt: skip
        describe(commands.add_parser)
    return parser


def _demo(add: Add) -> None:
    demo = _command(add, "demo", "Run notebooks 01-05 and show scores and report.")
    demo.add_argument("--data", metavar="DIR", type=Path, help="cases, or auto; else phantoms")
    demo.add_argument("--edition", metavar="NAME", choices=SCHEMAS, help="edition of all masks")
    demo.add_argument("--out", metavar="DIR", type=Path, help="run folder; runs/demo or runs/real")
    _recipe(demo, None, "tiny for phantoms, laptop for real cases")


def _check(add: Add) -> None:
    check = _command(add, "check", "Look folders of cases over; exit 1 on problems.")
    check.add_argument("dirs", metavar="DIR", type=Path, nargs="+")
    check.add_argument("--json", action="store_true", help="findings as JSON on stdout")
    check.add_argument("--all", action="store_true", help="every line, also where many are alike")
    check.add_argument("--workers", metavar="N", type=int, help="threads; one a core, at most 8")
    check.add_argument(
        "--journal", metavar="FILE", default="auto", help="where to go on; auto (cache) or none"
    )
    _editions(check)


def _phantom(add: Add) -> None:
    phantom = _command(add, "phantom", "Make phantoms with exact truth.", "OUT")
    phantom.add_argument("--cases", metavar="N", type=int, required=True)
    phantom.add_argument("--seed", metavar="S", type=int, default=0, help="0 to 19999")
    phantom.add_argument("--spacing", metavar="MM", type=float, nargs=3, default=(1.0, 1.0, 1.0))
    phantom.add_argument("--workers", metavar="N", type=int, help="processes; one a core")
    phantom.add_argument(
        "--without",
        metavar="NAME",
        action="append",
        default=[],
        help="leave an effect out, for example mimics; may be given again",
    )
    phantom.add_argument("--level-sets", action="store_true", help="also write <id>_truth.npz")
    _edition(phantom, "edition to write the masks in")


def _prepare(add: Add) -> None:
    prepare = _command(add, "prepare", "Turn cases into arrays for training.", "DIR", "OUT")
    prepare.add_argument("--workers", metavar="N", type=int)
    prepare.add_argument(
        "--form",
        choices=("auto", "fast", "compact"),
        default="auto",
        help="how cases are stored; auto: fast where all fit, else compact, a sixth of the size",
    )
    prepare.add_argument("--budget-gb", metavar="GB", type=float, help="of OUT; the free space")
    _recipe(prepare, DEFAULT_RECIPE, f"default {DEFAULT_RECIPE}")
    _changes(prepare)
    _edition(prepare, "edition of the masks")


def _split(add: Add) -> None:
    split = _command(add, "split", "Draw cases into parts by patient, across editions.")
    split.add_argument("dirs", metavar="DIR", type=Path, nargs="+")
    split.add_argument("out", metavar="OUT.json", type=Path)
    split.add_argument("--folds", metavar="K", type=int, help="K folds beside a test part")
    split.add_argument("--seed", metavar="S", type=int, default=0)
    _editions(split)


def _train(add: Add) -> None:
    train = _command(add, "train", "Train, going on where an earlier call stopped.", "PREPARED")
    train.add_argument("out", metavar="RUN", type=Path)
    train.add_argument("--split", metavar="FILE", type=Path, help="from `bratskit split`")
    train.add_argument("--fold", metavar="I", type=int, help="which of its folds, from 0")
    train.add_argument("--max-minutes", metavar="M", type=float, help="length of this session")
    train.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        help="insist on a checkpoint to go on from; --no-resume throws an earlier one away",
    )
    train.add_argument(
        "--deterministic", action="store_true", help="repeat to the bit; slower on a GPU"
    )
    train.add_argument(
        "--track", choices=("wandb", "tensorboard"), action="append", default=[], help="tell it too"
    )
    train.add_argument(
        "--preflight", action="store_true", help="only say what it will take; exit 1: does not fit"
    )
    _recipe(train, None, f"the run's own, or {DEFAULT_RECIPE}")
    _changes(train)


def _tune(add: Add) -> None:
    tune = _command(add, "tune", "Choose temperature and clean-up on validation patients.", "RUN")
    tune.add_argument(
        "dir", metavar="DIR", type=Path, nargs="?", help="its cases; those it was begun with"
    )
    tune.add_argument(
        "--temperature",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fit one, or leave the recipe's; a pass or two more over the patients",
    )
    _edition(tune, "edition of the expert masks")


def _models(add: Add) -> None:
    _command(add, "models", "List the networks below a folder; exit 1 where one is none.", "DIR")


def _export(add: Add) -> None:
    export = _command(add, "export", "Write a network as ONNX, for machines without torch.")
    export.add_argument(
        "model", metavar="MODEL", type=Path, help="checkpoint, as runs/demo/best.pt"
    )
    export.add_argument("out", metavar="OUT.onnx", type=Path)
    export.add_argument(
        "--size", metavar="VOX", type=int, nargs=3, help="of the images; the recipe's window"
    )


def _register(add: Add) -> None:
    text = "Move flair, t1 and t2 onto t1ce, rigidly, at 1 mm; the skull is not stripped."
    register = _command(add, "register", text)
    _cases_or_files(register)
    register.add_argument(
        "--keep-grid", action="store_true", help="leave t1ce as it is, whatever its voxels"
    )


def _predict(add: Add) -> None:
    predict = _command(add, "predict", "Write a mask for every case, or for four named files.")
    _cases_or_files(predict)
    predict.add_argument(
        "--model",
        metavar="PATH",
        type=Path,
        action="append",
        help="default: the shipped network; given again, an ensemble",
    )
    predict.add_argument("--tta", action="store_true", help="also label all mirror images (8 x)")
    predict.add_argument("--probabilities", action="store_true", help="write <id>_probabilities")
    predict.add_argument(
        "--uncertainty", action="store_true", help="write <id>_entropy and _mutual_information"
    )
    predict.add_argument(
        "--memory-gb",
        metavar="GB",
        type=float,
        help="what labelling may take beside the scan; slab by slab where short; half of the free",
    )
    doubts = predict.add_mutually_exclusive_group()
    doubts.add_argument(
        "--trust", action="store_true", help="label what looks swapped, moved or not stripped too"
    )
    doubts.add_argument("--strict", action="store_true", help="refuse whatever has a warning")
    _changes(predict, "inference.overlap=0.25")
    _edition(predict, "edition to write the masks in")


def _cases_or_files(added: argparse.ArgumentParser) -> None:
    """Take DIR OUT, or OUT alone where four files are named."""
    added.folder = added.add_argument(
        "dir", metavar="DIR", type=Path, help="cases; left out with four files"
    )
    added.add_argument("out", metavar="OUT", type=Path)
    for name in MODALITIES:
        added.add_argument(f"--{name}", metavar="FILE", type=Path, help="instead of DIR")
    added.add_argument("--id", metavar="NAME", help="of the four files; else from their names")


def _evaluate(add: Add) -> None:
    evaluate = _command(add, "evaluate", "Score masks against masks.", "PRED", "TRUTH")
    evaluate.add_argument("--out", metavar="CSV", type=Path, help="also write the rows here")
    evaluate.add_argument("--convention", choices=CONVENTIONS, default="brats")
    _edition(evaluate, "edition of both folders")


def _report(add: Add) -> None:
    report = _command(add, "report", "Write one HTML page about a run.")
    report.add_argument("dir", metavar="RUN", type=Path)


def _command(add: Add, name: str, text: str, *folders: str) -> argparse.ArgumentParser:
    added = add(name, help=text, description=text)
    for folder in folders:
        added.add_argument(folder.lower(), metavar=folder, type=Path)
    return added


def _recipe(added: argparse.ArgumentParser, default: str | None, text: str) -> None:
    help_text = f"{text}; one of {', '.join(RECIPES)}"
    added.add_argument("--recipe", metavar="NAME", default=default, help=help_text)


def _changes(added: argparse.ArgumentParser, example: str = "training.ema_decay=0.99") -> None:
    added.add_argument(
        "--set",
        metavar="NAME=VALUE",
        dest="changes",
        action="append",
        default=[],
        help=f"one setting of the recipe, as {example}; may be given again",
    )


def _edition(added: argparse.ArgumentParser, text: str) -> None:
    added.add_argument(
        "--edition", metavar="NAME", default="brats2017-2021", choices=SCHEMAS, help=text
    )


def _editions(added: argparse.ArgumentParser) -> None:
    text = "edition of the masks; again for each further DIR where they differ"
    added.add_argument("--edition", metavar="NAME", action="append", choices=SCHEMAS, help=text)
