"""How masks agree with those of experts: pairs, figures, tables, raters and their consensus."""
