"""The judges of drawn videos: who is seen, what the components look like, the expression and the motion.

They share nothing with `sight`, by which the adapters are conditioned, so that no figure is won by fooling what the
training saw by. Public: `judges.Judges`. May import `world`, `networks` and `pipeline` of this room, `faces` and
`models`.
"""
