"""The papers' tables and figures, filled from runs: `python -m analysis.papers RUN_DIR ...`."""
