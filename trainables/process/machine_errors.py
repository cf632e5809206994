"""Errors of a stage that its machine caused, and not its settings."""

from __future__ import annotations


class OutOfMemory(RuntimeError):  # noqa: N818 - the name says what happened
    """A stage ran out of memory; the message says what to change."""


class SurroundingsError(RuntimeError):
    """Disk, storage or data cannot be used; other settings of the pipeline would not help."""
