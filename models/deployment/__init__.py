"""What a user takes away: a network as files that run without this project."""
