"""`rpg board`: a local web page over the zoos, runs, scores and reports of a directory."""
