"""Uploaded files: what they hold, and the one form in which each kind is kept."""
