"""Decides what to try next and where it runs: recipes, search space, samplers, study, results."""
