"""Timed runs and the precision of their median."""
