"""How long a study will take, and what of it fits into a time limit."""
