"""The dry run: time, memory and table sizes in advance."""
