"""`storekeeper`, and `python -m storekeeper`."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line, or says which extra is missing for it."""
    try:
        import click  # noqa: F401
    except ImportError:
        print("storekeeper's command line needs click: pip install 'storekeeper[cli]'", file=sys.stderr)
        sys.exit(69)
    from storekeeper.cli import cli

    cli(prog_name="storekeeper")


if __name__ == "__main__":
    main()
