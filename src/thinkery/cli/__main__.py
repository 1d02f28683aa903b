"""`python -m thinkery.cli` is `thinkery`."""

import sys

from thinkery.cli.main import main

sys.exit(main())
