"""Tracks the pipelines of a study: what can run now, what has ended, what stops early."""
