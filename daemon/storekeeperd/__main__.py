"""`storekeeperd`, and `python -m storekeeperd`."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Runs the command line, or says which extra is missing for it."""
    gc.disable()  # what is imported stays: looking for garbage in it is a quarter of the start, measured
    try:
        import click  # noqa: F401
        import watchdog  # noqa: F401
        import xxhash  # noqa: F401
    except ImportError as error:
        print(
            f"storekeeperd needs {error.name}: install its extra with\n    pip install 'storekeeper[daemon]'",
            file=sys.stderr,
        )
        sys.exit(69)
    from storekeeperd.cli import cli

    cli(prog_name="storekeeperd")


if __name__ == "__main__":
    main()
