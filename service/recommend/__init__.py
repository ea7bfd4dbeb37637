"""From finished arms to a claim that holds: confirmation runs, verdict, recommendation, export."""
