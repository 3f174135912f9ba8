"""Pages and figures that a person reads."""
