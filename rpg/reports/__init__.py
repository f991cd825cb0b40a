"""Generated networks beside originals and baselines: comparisons, verdicts, tables, plots, pages."""
