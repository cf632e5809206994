"""The files of a run: results, folders, earlier runs, and what is printed."""
