"""Batches → adapters: the losses (eqs. 1, 5, 6) and the training run.

Public: `Trainer`, `TrainingConfig`, `diffusion_loss`, `route_loss`, `lavieid_loss`. May import `data`, `attachment`,
`faces`, `models`, `hosts`, `files`, `visualize` and `extras`.
"""
