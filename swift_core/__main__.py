"""``python -m swift_core`` is the command ``swift``."""

import sys

from swift_core.cli import main

sys.exit(main())
