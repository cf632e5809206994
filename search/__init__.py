"""What to try next, and where: recipes, search space, samplers, the study and its results."""
