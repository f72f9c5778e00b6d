"""The `lavieid` command, a file for each group of its commands.

Public: the command alone. May import everything, inside functions, so that `lavieid --help` is fast.
"""
