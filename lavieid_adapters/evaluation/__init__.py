"""Videos → figures: likeness, consistency, flicker, routing.

Public: all functions of `metrics`. May import `faces`, `models.identity`, `files` and `extras`.
"""
