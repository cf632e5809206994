"""Layers and encoders that several networks share."""
