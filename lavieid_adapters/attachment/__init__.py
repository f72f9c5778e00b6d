"""Adapters on a transformer or a pipeline, and off again; its README has the ways of running and how a step goes.

Public: `attach`, `attach_lavieid`, `LaVieID`, `RouterHandle`. May import `models`, `hosts` and `files`; `faces` only
inside `LaVieID.reader`, since identities and their files need no models for faces.
"""
