"""Photo → facial components → `Identity` (sections 3.1 and 3.2); the README says how to bring a face model.

Public: `FaceProcessor`, `IdentityReader`; the protocols `Detector`, `Recognizer`, `Aligner`, `Parser`, `VisionEncoder`;
their models `InsightFace`, `RetinaFace`, `BiSeNet`, `VisionModel`; `DetectedFace`, `FaceFeatures`,
`CELEBAMASK_TO_COMPONENT`. May import `models`, `files` and `extras`.
"""
