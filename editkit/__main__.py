"""``python -m editkit``: the same as the command ``editkit``."""

import sys

from editkit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
