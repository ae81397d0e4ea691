"""The planner: whether Kimi K2 fits on a machine, how many tokens its cache holds, and how fast it can be at best.

Pure arithmetic from K2's published configuration and the data sheets of GPUs. Nothing here was measured on a GPU; every
figure that is an estimate and not a product of the two is a named constant with its source.
"""
