# The only writer of our tables. jobs.py: what the API asks for; lease.py: who owns a job; runs.py: what the owner
# writes about it, always under its lease; queries.py: what is read.
"""The SQL ledger: the truth about jobs, trials and results."""
