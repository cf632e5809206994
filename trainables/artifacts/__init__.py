"""Finished stages, kept on disk and in storage under keys of their content."""
