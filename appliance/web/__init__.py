"""How people and programs reach the Hub."""
