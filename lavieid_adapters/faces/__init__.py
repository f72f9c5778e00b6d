"""Photo → facial components → `Identity` (sections 3.1 and 3.2).

Public: `FaceProcessor`, `IdentityReader` and the parts they are built from. May import `models`, `files` and `extras`.
"""
