"""Settings that all tests share."""

from hypothesis import settings

# the first call of a compiled kernel may take seconds: times of single examples say nothing
settings.register_profile("wassgrid", deadline=None)
settings.load_profile("wassgrid")
