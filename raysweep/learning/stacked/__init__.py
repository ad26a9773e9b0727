"""Stacked layers, losses and optimisers: everything with a lane axis that knows no experiment.

The lane axis K is always the first. Letters: K lanes, B batch, P padded parameters of a lane.
A lane's numbers do not depend on K or on the other lanes, on a CPU to the last bit. That
rests on three habits: batched products with one matrix a lane, element-wise kernels whose last
elements go the same way as the others (``functional`` says which do not), and sums that reduce
one axis after the other.
"""
