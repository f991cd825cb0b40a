"""No network in tests (Hub libraries read this at import); hypothesis without its deadline, which on a shared machine
measures the neighbours.
"""

import os

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
settings.register_profile("rpg-zoo", deadline=None)
settings.load_profile("rpg-zoo")
