"""Checks WarpAdam on a CUDA device: its tests, time and memory of a step, and training against other optimizers.

``python -m benchmarks.gpu`` runs it. It needs torch, numpy, safetensors and pytest only.
"""
