"""The reading of photos of drawn people: the parts of a face processor, which need no download.

Public: `reading_parts`, by which the package registers the photo reader "puppets". May import `world`, `networks` and
`pipeline` of this room, and `faces`, `files` and `models`; nothing of `judges`.
"""
