"""Replay buffers: which samples are kept, how they are filled and retrieved."""
