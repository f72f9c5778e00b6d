"""What is known of diffusers' video models: transformers (`Host`) and pipelines (`VideoPipeline`).

May import nothing else of this package.
"""
