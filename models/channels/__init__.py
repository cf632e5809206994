"""Channels: which belong together, which can go, and what is left of them."""
