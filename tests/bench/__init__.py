"""Figures, measured side by side in one run: see `python -m bench --help`, or `make bench`."""
