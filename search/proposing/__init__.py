"""What to try next: samplers, and what they see of a study."""
