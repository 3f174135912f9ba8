"""One mask from several raters."""
