"""A study on a Ray cluster: all of `search` that imports Ray."""
