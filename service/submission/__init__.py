"""From a request to a queued job: checks, plan, files."""
