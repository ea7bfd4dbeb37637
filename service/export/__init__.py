"""Takes a result out of the service: as data, a script, a zip with everything, or an HTML report."""
