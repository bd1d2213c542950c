"""How a weight reaches a loss that somebody else computes."""
