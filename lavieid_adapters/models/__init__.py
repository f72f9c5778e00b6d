"""The boxes of the paper's figure 2, on tensors (eqs. 2, 3, 4), and the files in which they are saved.

Public: `LocalRouter`, `TAM`, `LocalFacialEncoder`, `Identity`. May import `files`.
"""
