"""How drawn photographs are read: the parts of a face processor that need no download."""
