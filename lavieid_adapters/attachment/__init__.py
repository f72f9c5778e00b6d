"""Adapters on a transformer or a pipeline, and off again.

Public: `attach`, `attach_lavieid`, `LaVieID`, `RouterHandle`. May import `models`, `hosts` and `files`.
"""
