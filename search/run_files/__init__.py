"""The files of a run (results, folders, earlier runs) and the text that is printed."""
