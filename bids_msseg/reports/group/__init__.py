"""The cohort table and page."""
