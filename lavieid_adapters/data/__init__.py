"""Clips → shards → batches: the data that adapters are trained with.

Public: `prepare_clips`, `read_clips`, `Shards`, `token_labels`. May import `faces`, `models.identity`, `hosts`,
`files`, `visualize` and `extras`.
"""
