"""Pictures of what the adapters see and do: component overlays, route maps, videos.

May import `faces` and `models`.
"""
