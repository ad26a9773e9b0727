"""Replay buffers: selecting samples, filling buffers and retrieving batches."""
