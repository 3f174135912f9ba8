"""Thin nipype interfaces; each calls one function of another subpackage."""
