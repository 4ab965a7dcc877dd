"""``python -m faceaffect.cli``."""

import sys

from faceaffect.cli import main

if __name__ == "__main__":
    sys.exit(main())
