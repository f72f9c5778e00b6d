"""The judges of drawn videos: identity, components, expression, motion. They share nothing with `sight`."""
