"""The `lavieid` command, a file for each group of its commands.

May import everything, inside functions.
"""
