"""The tuning service: jobs in, a recommended optimizer configuration out."""
