"""Compare WarpAdam with AdamW, Muon, SOAP, Shampoo and ScheduleFree AdamW: ``python -m benchmarks.optimizers``.

All optimizers are tuned with the same budget on the same tasks. README.md explains the protocol and the figures.

The layers from the bottom up: ``training`` and ``arms``, the tasks, ``records``, ``protocol``, ``report`` and
``plot``.
"""
