"""The paper's tables and figures: as data (recipes/tables), planned, carried out, and set beside the printed values."""
