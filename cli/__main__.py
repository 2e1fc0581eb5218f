"""`python -m cli`: the same as `parley`."""

import sys

from cli.main import main

sys.exit(main())
