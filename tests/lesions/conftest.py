"""Settings of the property tests of this package."""

from __future__ import annotations

from hypothesis import settings

# a busy machine must not turn a right answer into a failure
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
