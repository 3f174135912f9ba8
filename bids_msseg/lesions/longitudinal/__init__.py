"""Changes of lesions between two visits."""
