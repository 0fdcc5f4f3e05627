"""What holds for every test."""

from hypothesis import settings

settings.register_profile("liqheat", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("liqheat")
