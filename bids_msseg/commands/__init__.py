"""Steps of ``msseg-train`` that read and write files: labels, cohort, folds, recipes, cards."""
