"""Batches → adapters: the losses (eqs. 1, 5, 6) and the training run.

May import `data`, `attachment`, `faces`, `models`, `hosts`, `files`, `visualize` and `extras`.
"""
