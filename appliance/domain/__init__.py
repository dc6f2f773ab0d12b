"""What a user, server, route, name, state and limit is. Standard library only; no input or output."""
