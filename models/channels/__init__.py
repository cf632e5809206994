"""Channels: which must be removed together, which can be removed, and which were kept."""
