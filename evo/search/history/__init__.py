"""What a search has evaluated, on disk: journals of open generations, and parts of ended ones."""
