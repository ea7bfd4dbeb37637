"""What a finished job hands out: config files, scripts, bundles, the report."""
