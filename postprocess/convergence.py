"""Draw objective and gradient norm of one or several runs against step, flow time and wall time.

python postprocess/convergence.py RESULT.h5... -o FIGURE.png
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
    parser.add_argument("files", nargs="+", type=Path, help="result files")
    parser.add_argument("-o", "--output", type=Path, default=Path("convergence.png"), help="figure (png, pdf, svg)")
    given = parser.parse_args(argv)
    try:
        plotting.save(plotting.convergence(given.files), given.output)
    except (StorageError, ValueError) as error:
        parser.error(str(error))
    print(given.output)


if __name__ == "__main__":
    main(sys.argv[1:])
