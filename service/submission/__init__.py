"""From a request to a queued job: checks against the data, plan, files, estimate."""
