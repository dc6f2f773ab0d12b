"""Ways to let browsers in."""
