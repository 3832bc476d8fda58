"""`python -m wassgrid`: the command line."""

import sys

from wassgrid.cli import main

if __name__ == "__main__":
    sys.exit(main())
