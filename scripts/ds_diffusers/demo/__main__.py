"""python -m ds_diffusers.demo"""

import sys

from . import main

sys.exit(main())
