"""`python -m bench.methods`: see bench.plan.methods_table."""

import sys

from bench.plan.methods_table import main

sys.exit(main())
