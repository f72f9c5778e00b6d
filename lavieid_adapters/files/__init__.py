"""Files on disk and on the Hub: atomic saves, downloads, digests, the opening of images, the model card's text.

This room knows no adapter and no face. Models of your own may use `sampled_digest`; nothing else is public. It may
import nothing else of this package.
"""
