"""Reading and showing what users write."""
