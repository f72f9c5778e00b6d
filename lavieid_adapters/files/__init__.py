"""Bytes on disk and on the Hub, of whatever they are: this room knows no adapter.

May import nothing else of this package.
"""
