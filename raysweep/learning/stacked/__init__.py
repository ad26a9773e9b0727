"""Stacked layers, losses and optimisers: code with a lane axis, independent of experiments.

The lane axis K always comes first. Letters: K lanes, B batch, P padded parameters of a lane.
A lane's numbers do not depend on K or on the other lanes; on a CPU they agree to the last bit.
Three rules ensure this: batched products with one matrix per lane, element-wise kernels that treat
the last elements like the others (``functional`` lists those that do not), and sums that reduce
one axis after the other.
"""
