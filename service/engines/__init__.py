"""What runs trials: the contract, and the engine of slot processes on one machine."""
