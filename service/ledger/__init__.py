"""The SQL ledger: the truth about jobs, trials, results and uploaded datasets.

It is the only writer of our tables, and it only stores: whether a spec makes sense is decided before.
"""
