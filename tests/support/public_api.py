"""A script that uses the public names as users do, for the type checker: each has its own type, none is Any."""

from typing import assert_type

import torch

from lavieid_adapters import TAM, Identity, LaVieID, LocalRouter, RouterHandle, attach, attach_lavieid


def generate(pipe: object, transformer: torch.nn.Module, router: LocalRouter) -> None:
    lavieid = attach_lavieid(pipe, "me/lavieid-cogvideox-5b", block_idx=0)
    assert_type(lavieid, LaVieID)
    lavieid.set_identity(lavieid.encode("photo.jpg"))
    assert_type(lavieid.encode("photo.jpg"), Identity)
    assert_type(lavieid.scale, float)
    lavieid.detach()
    with attach(router, transformer, block_idx=0) as handle:
        assert_type(handle, RouterHandle)
    tam = TAM.from_pretrained("me/lavieid-cogvideox-5b", subfolder="tam")
    assert_type(tam, TAM)
    assert_type(TAM(dim=64, num_heads=2), TAM)
    tam.refine(torch.zeros(1, 13, 16, 60, 90), chunks=4)
