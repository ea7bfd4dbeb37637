"""For programs that use the service: a client of its HTTP API, a service of their own, and specs from a file."""
