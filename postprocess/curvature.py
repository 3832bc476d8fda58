"""Draw the extreme eigenvalues of the Hessian of J along a run.

python postprocess/curvature.py RESULT.h5 -o FIGURE.png
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
    parser.add_argument("-o", "--output", type=Path, default=Path("curvature.png"), help="figure (png, pdf, svg)")
    given = parser.parse_args(argv)
    try:
        plotting.save(plotting.curvature(given.file), given.output)
    except (StorageError, ValueError) as error:
        parser.error(str(error))
    print(given.output)


if __name__ == "__main__":
    main(sys.argv[1:])
