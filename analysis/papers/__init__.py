"""The papers' tables and figures, made from runs: `python -m analysis.papers RUN_DIR ...`."""
