"""Ways to run a single-user server."""
