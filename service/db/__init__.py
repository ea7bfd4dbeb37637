"""The SQL schema, its migrations and sessions."""
