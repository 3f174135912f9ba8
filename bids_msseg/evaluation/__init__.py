"""Agreement of masks with those of experts: pairs, metrics, tables, raters and consensus."""
