"""The hosts that each way of running is tried on."""

import pytest
from support.modes.rig import RIGS


@pytest.fixture(params=RIGS, ids=lambda rig: rig.name)
def rig(request):
    return request.param
