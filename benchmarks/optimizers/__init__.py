# WarpAdam beside AdamW, Muon, SOAP, Shampoo and ScheduleFree, every arm tuned with the same budget on the same tasks.
# Layers, from the bottom: training.py and arms.py; the tasks; records.py; protocol.py; report.py and plot.py.
"""The comparison of optimizers: ``python -m benchmarks.optimizers``."""
