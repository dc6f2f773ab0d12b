"""Ways to say who somebody is."""
