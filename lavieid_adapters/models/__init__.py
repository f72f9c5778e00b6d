"""The boxes of the paper's figure 2, on tensors (eqs. 2, 3, 4), and the files in which they are saved.

Public: `LocalRouter`, `TAM`, `LocalFacialEncoder`, `Identity`. README.md has the table from the paper to the code. May
import `files`.
"""
