"""`python -m wassgrid`, and the command `wassgrid`."""

import sys


def main() -> int:
    """Run the command line; Ctrl-C while it is being imported ends it without a word."""
    try:
        from wassgrid.cli import main as command
    except KeyboardInterrupt:
        return 130
    return command()


if __name__ == "__main__":
    sys.exit(main())
