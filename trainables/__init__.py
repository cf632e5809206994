"""How a network learns: data, losses, metrics and the training stages."""
