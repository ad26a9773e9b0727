"""Data: sources as uint8 arrays, task sequences made from them, and batch order.

``sources`` needs only NumPy, so that the driver starts without torch; ``task_sequences`` makes the
tensors.
"""
