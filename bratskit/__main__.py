"""Let `python -m bratskit` be the command `bratskit`."""

import sys

from bratskit.cli import main

if __name__ == "__main__":
    sys.exit(main())
