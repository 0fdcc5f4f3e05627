"""What holds for every test."""

import os

from hypothesis import settings

# All tests ask from one address: none is to be refused for what the others asked. Those of the limits set their own.
os.environ.update(dict.fromkeys((f"LIQHEAT_LIMIT_{n}" for n in ("READS", "COMPUTED", "WRITES", "SNAPSHOTS")), "0"))

settings.register_profile("liqheat", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("liqheat")
