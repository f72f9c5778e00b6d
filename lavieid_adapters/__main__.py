"""The `lavieid` command as a module, for `accelerate launch -m lavieid_adapters train ...`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
