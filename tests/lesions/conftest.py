"""Settings of the property tests of this package."""

from __future__ import annotations

from hypothesis import settings

# no deadline: a correct test must not fail on a slow computer
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
