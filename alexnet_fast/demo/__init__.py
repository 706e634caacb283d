"""Sample images through everything, without a download."""
