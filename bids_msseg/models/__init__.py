"""Networks: their layers, their classes and what they return."""
