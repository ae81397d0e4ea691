"""An engine over several machines: rank 0's `meeting`, the other ranks' `worker`, and the `messages` between them.

Rank 0 numbers its starts. A worker runs a rank only of the start whose number rank 0 told it, and ends it when the
connection ends, when it is silent for NODE_SILENCE_SECONDS, or when rank 0 tells another number. Rank 0 starts only
when every worker has said that none of its processes is left.
"""
