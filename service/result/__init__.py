"""The typed result of a job: what it recommends, why, and what else it found."""
