"""`python -m thinkery.cli` is `thinkery`."""

import sys

from thinkery.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
