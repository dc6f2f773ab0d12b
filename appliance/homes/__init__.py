"""Where users' files live."""
