"""What the Hub does."""
