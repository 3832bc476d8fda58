"""Draw how the particles of chosen states move over flow time.

python postprocess/trajectories.py RESULT.h5 --state 0.5 -1 --state 0 0 -o FIGURE.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wassgrid import plotting
from wassgrid.storage import StorageError


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="result file")
    parser.add_argument("--state", nargs="+", type=float, action="append", help="a state to show; may be repeated")
    parser.add_argument("-o", "--output", type=Path, default=Path("trajectories.png"), help="figure (png, pdf, svg)")
    given = parser.parse_args(argv)
    try:
        plotting.save(plotting.trajectories(given.file, given.state), given.output)
    except (StorageError, ValueError) as error:
        parser.error(str(error))
    print(given.output)


if __name__ == "__main__":
    main(sys.argv[1:])
