"""Data: sources as uint8 arrays, task sequences made of them, batch order.

``sources`` needs NumPy only, so the driver starts without torch; ``task_sequences`` has the
tensors.
"""
