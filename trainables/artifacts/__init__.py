"""Finished stages on disk and in storage."""
