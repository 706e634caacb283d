"""Other programs' weights, both ways."""
