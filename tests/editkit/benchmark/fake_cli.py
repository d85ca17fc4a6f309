"""``python -m tests.editkit.benchmark.fake_cli ARGS`` is ``editkit ARGS`` with fake models."""

import sys

from editkit.cli.main import main
from tests.editkit.benchmark.fakes import fake_modules

sys.modules.update(fake_modules())
sys.exit(main())
