"""`python -m bench.methods`: see bench.listing."""

import sys

from bench.listing import main

sys.exit(main())
