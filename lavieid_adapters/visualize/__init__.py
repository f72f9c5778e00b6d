"""Pictures of what the adapters see and do: component overlays, route maps, videos.

Public: `component_overlay`. May import `faces.components`, `faces.parts`, `faces.photo` and `models.identity`.
"""
