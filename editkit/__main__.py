"""``python -m editkit``: the same as the command ``editkit``."""

import sys

from editkit.cli.main import main

sys.exit(main())
