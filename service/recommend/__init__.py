"""Judges finished arms: verdict, recommendation and findings. Pure functions; running and exporting are elsewhere."""
