"""``python -m tornado_celery_bridge``: the command ``tcb``."""

import sys

from tornado_celery_bridge.cli.main import main

sys.exit(main())
