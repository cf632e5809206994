"""Proposes the next pipeline: the samplers, and the view of the study that they get."""
