"""Timing of networks, and the precision of the median."""
