"""Parse, check and show the values that users write."""
