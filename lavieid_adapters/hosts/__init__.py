"""Knowledge of video models: transformers (`Host`) and pipelines (`VideoPipeline`); its README shows how to add one.

Public: `Host`, `VideoPipeline`. May import nothing else of this package.
"""
