"""The `lavieid` command as a module, for `accelerate launch -m lavieid_adapters prepare ...`."""

import sys

from .cli.main import main

sys.exit(main())
