"""Backups of a service: its database and its files, as they were at one moment.

``tables.py`` copies the database, ``make.py`` makes and restores backups, ``check.py`` finds what is missing or left
over.
"""
