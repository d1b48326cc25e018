"""Sources of text, tokenising, prepared corpora, the text of the fitness."""
