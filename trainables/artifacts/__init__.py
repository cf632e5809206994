"""Finished stages, stored on disk and in remote storage under content keys."""
