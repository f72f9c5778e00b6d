"""Videos → figures: likeness, consistency, flicker.

May import `faces`, `models`, `files` and `extras`.
"""
