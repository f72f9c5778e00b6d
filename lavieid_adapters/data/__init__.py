"""Clips → shards → batches: the data that adapters are trained with.

May import `faces`, `models`, `hosts`, `files`, `visualize` and `extras`.
"""
