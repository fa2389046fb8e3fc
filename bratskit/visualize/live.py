"""Redraw the curves of a training while it runs, where somebody watches; nothing elsewhere."""

import os
import sys
import time
from collections.abc import Mapping, Sequence

from bratskit.visualize.curves import draw_history

__all__ = ["LiveCurves", "is_watched"]

# Who runs a notebook with nobody watching says so in one of these: our jobs, pytest (nbval).
_UNWATCHED = ("BRATSKIT_JOB", "PYTEST_CURRENT_TEST")


def is_watched() -> bool:
    """Say whether this is the kernel of a notebook that somebody looks at."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel") and not any(name in os.environ for name in _UNWATCHED)


class LiveCurves:
    """Draw the history so far into one place of the page, for `train(..., on_epoch=...)`.

    In a notebook that somebody watches the picture is replaced after each epoch, never added to:
    what is stored is one picture. In a job (papermill, `bratskit demo`) nothing is drawn, and the
    lines that training prints are the curve. A picture that cannot be drawn never stops a training.

    Attributes:
        drawn: Pictures drawn so far.
    """

    def __init__(self, *, every_s: float = 2.0, watched: bool | None = None) -> None:
        """Take a place on the page at the first epoch.

        Args:
            every_s: Least time between two pictures, seconds: quick epochs are not slowed.
            watched: Whether to draw; None asks `is_watched`.
        """
        self.every_s = every_s
        self.watched = is_watched() if watched is None else watched
        self.drawn = 0
        self._place: object | None = None
        self._last_s = -float("inf")

    def __call__(self, history: Sequence[Mapping[str, object]]) -> None:
        """Redraw, unless nobody watches or it was done a moment ago."""
        if not self.watched or time.monotonic() - self._last_s < self.every_s:
            return
        try:
            self._draw(history)
        except Exception as error:  # hours of training are worth more than a picture
            self.watched = False
            sys.stdout.write(f"live curves stop: {type(error).__name__}: {error}\n")
        self._last_s = time.monotonic()

    def _draw(self, history: Sequence[Mapping[str, object]]) -> None:
        from IPython.display import Image, display

        picture = Image(draw_history(history).to_png())
        if self._place is None:
            self._place = display(picture, display_id=True)
        else:
            self._place.update(picture)
        self.drawn += 1
