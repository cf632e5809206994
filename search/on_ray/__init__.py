"""Runs a study on Ray; apart from `search/run.py`, only this part of `search` imports Ray."""
