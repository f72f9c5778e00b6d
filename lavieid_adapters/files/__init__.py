"""Files on disk and on the Hub: atomic saves, downloads, digests, the opening of images, the model card's text.

This room knows no adapter and no face. Nothing in it is public. It may import nothing else of this package.
"""
