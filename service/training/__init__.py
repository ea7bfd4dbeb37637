"""What a trial does: data, models and the training loop."""
