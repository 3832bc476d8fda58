"""Draw the value function of a stored frame.

python postprocess/value.py RESULT.h5 --frame -1 -o FIGURE.png
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
    parser.add_argument("--frame", type=int, default=-1, help="number of the stored frame (default: the last)")
    parser.add_argument("-o", "--output", type=Path, default=Path("value.png"), help="figure (png, pdf, svg)")
    given = parser.parse_args(argv)
    try:
        plotting.save(plotting.value(given.file, given.frame), given.output)
    except (StorageError, ValueError) as error:
        parser.error(str(error))
    print(given.output)


if __name__ == "__main__":
    main(sys.argv[1:])
