"""The pipelines of a study: what may run now, what has ended, who stops early."""
